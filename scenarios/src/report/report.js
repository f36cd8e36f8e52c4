// Values under the pointer, or under the arrow keys. The page is complete without it.
(function () {
  "use strict";
  var box = document.getElementById("timeline");
  var data = JSON.parse(document.getElementById("series").textContent);
  var plots = Array.prototype.slice.call(box.querySelectorAll("svg.plot"));
  var drawing = box.querySelector(".times .drawing");
  var last = Math.max(0, Math.ceil(data.duration_ms / data.bucket_ms) - 1);
  var current = -1;

  // A title child would cover the read-out with a tooltip: the same words as a label do not.
  plots.forEach(function (plot) {
    var title = plot.querySelector("title");
    plot.setAttribute("aria-label", title.textContent);
    plot.removeAttribute("aria-labelledby");
    plot.removeChild(title);
  });

  function time(ms) {
    var s = ms / 1000, whole = Math.floor(s), parts = [];
    if (s < 60) return (Math.round(s * 100) / 100) + " s";
    if (whole >= 86400) parts.push(Math.floor(whole / 86400) + " d");
    if (whole % 86400 >= 3600) parts.push(Math.floor(whole % 86400 / 3600) + " h");
    if (whole % 3600 >= 60) parts.push(Math.floor(whole % 3600 / 60) + " min");
    if (whole < 86400 && (s % 60 > 0)) parts.push((Math.round(s % 60 * 10) / 10) + " s");
    return parts.join(" ");
  }
  function number(value) { return value.toLocaleString("en-US", { maximumFractionDigits: value < 10 ? 1 : 0 }); }
  function served(ok, failed) {
    var all = ok + failed, share = 100 * ok / all;
    if (!all) return "no requests";
    if (ok && failed) share = Math.min(99.9, Math.max(0.1, share));
    return number(Math.round(share * 10) / 10) + " % served" + (failed ? ", " + number(failed) + " of " + number(all) + " failed" : " of " + number(all));
  }
  function words(id, at) {
    var plot = data.plots[id];
    if (!plot) return "";
    if (id === "latency") {
      var p50 = plot.p50[at], p99 = plot.p99[at];
      return p50 == null || p99 == null ? "no calls" : "99th percentile " + number(p99) + " ms, median " + number(p50) + " ms";
    }
    if (id === "load") {
      var width = Math.min(data.bucket_ms, data.duration_ms - at * data.bucket_ms) || data.bucket_ms;
      return number((plot.calls[at] || 0) * plot.unit_ms / width) + " per " + plot.unit;
    }
    return served(plot.ok[at] || 0, plot.failed[at] || 0);
  }
  function show(at, aloud) {
    if (at === current) return;
    current = at;
    box.classList.add("reading");
    var from = at * data.bucket_ms, to = Math.min(from + data.bucket_ms, data.duration_ms);
    var x = (from + to) / 2 / data.duration_ms * 100 + "%";
    box.querySelectorAll("line.cursor").forEach(function (line) { line.setAttribute("x1", x); line.setAttribute("x2", x); });
    var when = time(from) + " – " + time(to), said = [when];
    box.querySelectorAll("[data-now]").forEach(function (place) {
      var id = place.getAttribute("data-now");
      place.textContent = id === "time" ? when : words(id, at);
      if (id !== "time") said.push(place.closest(".row").querySelector(".name").firstChild.textContent + ": " + place.textContent);
    });
    if (aloud) document.getElementById("reading").textContent = said.join("; ");
  }
  function hide() { current = -1; box.classList.remove("reading"); }
  function under(event) {
    var area = drawing.getBoundingClientRect(), share = (event.clientX - area.left) / area.width;
    if (share < 0 || share > 1) return hide();
    show(Math.min(last, Math.floor(share * data.duration_ms / data.bucket_ms)), false);
  }
  box.addEventListener("pointermove", under);
  box.addEventListener("pointerdown", under);
  box.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse") hide(); });
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Timeline. Arrow keys read the values, Escape ends.");
  box.addEventListener("keydown", function (event) {
    var page = Math.max(1, Math.round(last / 20));
    var step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "Escape") return hide();
    if (step === undefined) return;
    event.preventDefault();
    show(Math.max(0, Math.min(last, Math.max(0, current) + step)), true);
  });
  box.addEventListener("blur", hide);
  var aim = document.createElement("span");
  aim.className = "aim";
  aim.textContent = " Point at the chart, or focus it and use the arrow keys, to read the values.";
  document.getElementById("hint").appendChild(aim);
})();
