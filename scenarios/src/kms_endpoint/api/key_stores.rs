//! The management of external key stores.
//!
//! Place on the map: members in and out; [`Account`](crate::kms::account::Account) does the work.

use super::keys::page;
use super::members::{count, needed, one_of, read};
use super::{Api, Output, Refusal};
use crate::kms::account::{Connectivity, KeyStoreEntry, KeyStoreUpdate, ProxyConfiguration, Which};
use crate::kms::{KmsException, KmsFailure};
use serde::Deserialize;
use serde_json::{Value, json};
use xks_proxy::secret::Secret;

const TYPE: &str = "EXTERNAL_KEY_STORE";
const PUBLIC: &str = "PUBLIC_ENDPOINT";
const VPC: &str = "VPC_ENDPOINT_SERVICE";
/// Entries of DescribeCustomKeyStores when it is not told; at most ten exist.
const LIMIT: i64 = 100;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Members {
    custom_key_store_id: Option<String>,
    custom_key_store_name: Option<String>,
    new_custom_key_store_name: Option<String>,
    custom_key_store_type: Option<String>,
    xks_proxy_uri_endpoint: Option<String>,
    xks_proxy_uri_path: Option<String>,
    xks_proxy_vpc_endpoint_service_name: Option<String>,
    xks_proxy_vpc_endpoint_service_owner: Option<String>,
    xks_proxy_authentication_credential: Option<Credential>,
    xks_proxy_connectivity: Option<String>,
    limit: Option<i64>,
    marker: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Credential {
    access_key_id: Option<String>,
    raw_secret_access_key: Option<String>,
}

impl Credential {
    fn parts(self) -> Result<(String, Secret), Refusal> {
        let secret = needed(self.raw_secret_access_key, "rawSecretAccessKey").map(Secret::new)?;
        Ok((needed(self.access_key_id, "accessKeyId")?, secret))
    }
}

fn id(body: &[u8]) -> Result<String, Refusal> {
    needed(read::<Members>(body)?.custom_key_store_id, "customKeyStoreId")
}

impl Api {
    pub(super) async fn create_custom_key_store(&self, body: &[u8]) -> Output {
        let members: Members = read(body)?;
        let name = needed(members.custom_key_store_name, "customKeyStoreName")?;
        if members.custom_key_store_type.as_deref() != Some(TYPE) {
            return Err(KmsFailure::new(
                KmsException::UnsupportedOperation,
                "This model of KMS has external key stores only: give CustomKeyStoreType EXTERNAL_KEY_STORE.",
            )
            .into());
        }
        let connectivity = needed(members.xks_proxy_connectivity, "xksProxyConnectivity")?;
        let connectivity = read_connectivity(
            &connectivity,
            members.xks_proxy_vpc_endpoint_service_name,
            members.xks_proxy_vpc_endpoint_service_owner,
        )?;
        let credential =
            needed(members.xks_proxy_authentication_credential, "xksProxyAuthenticationCredential")?;
        let (access_key_id, secret) = credential.parts()?;
        let proxy = ProxyConfiguration {
            connectivity,
            uri_endpoint: needed(members.xks_proxy_uri_endpoint, "xksProxyUriEndpoint")?,
            uri_path: needed(members.xks_proxy_uri_path, "xksProxyUriPath")?,
            access_key_id,
        };
        let id = self.account.create_custom_key_store(&name, proxy, secret).await?;
        Ok(Some(json!({ "CustomKeyStoreId": id })))
    }

    pub(super) fn connect_custom_key_store(&self, body: &[u8]) -> Output {
        self.account.connect_custom_key_store(&id(body)?)?;
        Ok(Some(json!({})))
    }

    pub(super) fn disconnect_custom_key_store(&self, body: &[u8]) -> Output {
        self.account.disconnect_custom_key_store(&id(body)?)?;
        Ok(Some(json!({})))
    }

    pub(super) fn delete_custom_key_store(&self, body: &[u8]) -> Output {
        self.account.delete_custom_key_store(&id(body)?)?;
        Ok(Some(json!({})))
    }

    pub(super) fn describe_custom_key_stores(&self, body: &[u8]) -> Output {
        let members: Members = read(body)?;
        let which = match (&members.custom_key_store_id, &members.custom_key_store_name) {
            (None, None) => Which::All,
            (Some(id), None) => Which::Id(id),
            (None, Some(name)) => Which::Name(name),
            (Some(_), Some(_)) => {
                return Err(KmsFailure::new(
                    KmsException::Validation,
                    "Give either CustomKeyStoreId or CustomKeyStoreName, and not both.",
                )
                .into());
            }
        };
        let limit = count(members.limit.unwrap_or(LIMIT), "limit")?;
        let (entries, next) =
            self.account.describe_custom_key_stores(which, limit, members.marker.as_deref())?;
        let entries: Vec<_> = entries.into_iter().map(|entry| self.entry(entry)).collect();
        Ok(Some(page("CustomKeyStores", entries, next)))
    }

    pub(super) async fn update_custom_key_store(&self, body: &[u8]) -> Output {
        let members: Members = read(body)?;
        let id = needed(members.custom_key_store_id, "customKeyStoreId")?;
        let mut update = KeyStoreUpdate {
            name: members.new_custom_key_store_name,
            credential: members.xks_proxy_authentication_credential.map(Credential::parts).transpose()?,
            uri_path: members.xks_proxy_uri_path,
            uri_endpoint: members.xks_proxy_uri_endpoint,
            connectivity: None,
        };
        let (name, owner) =
            (members.xks_proxy_vpc_endpoint_service_name, members.xks_proxy_vpc_endpoint_service_owner);
        match members.xks_proxy_connectivity {
            Some(connectivity) => update.connectivity = Some(read_connectivity(&connectivity, name, owner)?),
            None if name.is_some() || owner.is_some() => {
                // The service of a key store that has one already; its endpoint may stay.
                let now = self.account.proxy_of(&id)?;
                let Connectivity::VpcEndpointService { name: old_name, owner: old_owner } = now.connectivity
                else {
                    return Err(KmsFailure::new(
                        KmsException::Validation,
                        "A key store with PUBLIC_ENDPOINT has no VPC endpoint service: give XksProxyConnectivity as well.",
                    )
                    .into());
                };
                update.connectivity = Some(Connectivity::VpcEndpointService {
                    name: name.unwrap_or(old_name),
                    owner: owner.or(old_owner),
                });
                update.uri_endpoint.get_or_insert(now.uri_endpoint);
            }
            None => {}
        }
        self.account.update_custom_key_store(&id, update).await?;
        Ok(Some(json!({})))
    }

    fn entry(&self, entry: KeyStoreEntry) -> Value {
        let mut proxy = json!({
            "AccessKeyId": entry.proxy.access_key_id,
            "UriEndpoint": entry.proxy.uri_endpoint,
            "UriPath": entry.proxy.uri_path,
        });
        match entry.proxy.connectivity {
            Connectivity::PublicEndpoint => proxy["Connectivity"] = PUBLIC.into(),
            Connectivity::VpcEndpointService { name, owner } => {
                proxy["Connectivity"] = VPC.into();
                proxy["VpcEndpointServiceName"] = name.into();
                proxy["VpcEndpointServiceOwner"] =
                    owner.unwrap_or_else(|| self.account_number.clone()).into();
            }
        }
        let mut told = json!({
            "CustomKeyStoreId": entry.id,
            "CustomKeyStoreName": entry.name,
            "ConnectionState": entry.connection.as_str(),
            "CreationDate": self.timestamp(entry.created_at),
            "CustomKeyStoreType": TYPE,
            "XksProxyConfiguration": proxy,
        });
        if let Some(code) = entry.error {
            told["ConnectionErrorCode"] = code.as_str().into();
        }
        told
    }
}

fn read_connectivity(
    connectivity: &str,
    name: Option<String>,
    owner: Option<String>,
) -> Result<Connectivity, Refusal> {
    one_of(connectivity, "xksProxyConnectivity", &[PUBLIC, VPC])?;
    // Null or empty, where one goes over to a public endpoint.
    let name = name.filter(|name| !name.is_empty());
    if connectivity == VPC {
        let name = needed(name, "xksProxyVpcEndpointServiceName")?;
        return Ok(Connectivity::VpcEndpointService { name, owner });
    }
    if name.is_some() {
        return Err(KmsFailure::new(
            KmsException::Validation,
            "A key store with PUBLIC_ENDPOINT has no VPC endpoint service: leave out XksProxyVpcEndpointServiceName.",
        )
        .into());
    }
    Ok(Connectivity::PublicEndpoint)
}
