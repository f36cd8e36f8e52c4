//! GetHealthStatus (XKS-HLT): a deep check through the key store's own HSM, without secondary authorization.
//!
//! Place on the map: [`api`](crate::api), one of the four operations.

use super::{Json, Object, RequestMetadata};
use crate::app::{App, Identity, KeyStore};
use crate::hsm::{DeviceHealth, HealthStatus};
use serde::Deserialize;
use tokio::time::Instant;

/// Most entries of `ekmFleetDetails` (XKS-HLT-1).
const DEVICES_MAX: usize = 10;

/// The request as it stands in the body.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Fields<'a> {
    #[serde(borrow)]
    pub(super) request_metadata: Option<Object<RequestMetadata<'a>>>,
}

/// Never an error of its own: a key manager that cannot be reached is `UNAVAILABLE` in a 200.
pub(super) async fn perform(app: &App, store: &KeyStore, deadline: Instant) -> Vec<u8> {
    let mut devices = store.hsm.health(deadline).await;
    if devices.is_empty() {
        // The list must not be empty (XKS-HLT-1), and an HSM that names no device serves none.
        let (id, model) = (store.name.clone(), app.identity.ekm_vendor.clone());
        devices.push(DeviceHealth { id, model, status: HealthStatus::Unavailable });
    }
    answer(&app.identity, &devices)
}

fn answer(identity: &Identity, devices: &[DeviceHealth]) -> Vec<u8> {
    let mut json = Json::with_capacity(512);
    json.raw(r#"{"xksProxyFleetSize":"#).raw(&identity.fleet_size.max(1).to_string());
    json.raw(r#","xksProxyVendor":"#).text(&identity.vendor);
    json.raw(r#","xksProxyModel":"#).text(&identity.model);
    json.raw(r#","ekmVendor":"#).text(&identity.ekm_vendor);
    json.raw(r#","ekmFleetDetails":["#);
    for (index, device) in devices.iter().take(DEVICES_MAX).enumerate() {
        json.raw(if index == 0 { r#"{"id":"# } else { r#",{"id":"# }).text(&device.id);
        json.raw(r#","model":"#).text(&device.model);
        json.raw(r#","healthStatus":"#).raw(match device.status {
            HealthStatus::Active => r#""ACTIVE"}"#,
            HealthStatus::Degraded => r#""DEGRADED"}"#,
            HealthStatus::Unavailable => r#""UNAVAILABLE"}"#,
        });
    }
    json.raw("]}").finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_follows_hlt_1() {
        let identity = Identity {
            fleet_size: 2,
            vendor: "we \"quote\"".into(),
            model: "m".into(),
            ekm_vendor: "e".into(),
        };
        let device = |id: usize, status| DeviceHealth { id: id.to_string(), model: "hsm".into(), status };
        let devices = [device(1, HealthStatus::Active), device(2, HealthStatus::Degraded)];
        assert_eq!(
            String::from_utf8(answer(&identity, &devices)).unwrap(),
            "{\"xksProxyFleetSize\":2,\"xksProxyVendor\":\"we \\\"quote\\\"\",\"xksProxyModel\":\"m\",\"ekmVendor\":\"e\",\
             \"ekmFleetDetails\":[{\"id\":\"1\",\"model\":\"hsm\",\"healthStatus\":\"ACTIVE\"},\
             {\"id\":\"2\",\"model\":\"hsm\",\"healthStatus\":\"DEGRADED\"}]}"
        );
        let many: Vec<_> = (0..11).map(|id| device(id, HealthStatus::Unavailable)).collect();
        let json: serde_json::Value = serde_json::from_slice(&answer(&identity, &many)).unwrap();
        assert_eq!(json["ekmFleetDetails"].as_array().unwrap().len(), 10);
    }
}
