// Values under the pointer or the arrow keys, zoom and pan in time, and what a service's row unfolds to. The page is
// complete without it.
(function () {
  "use strict";
  var box = document.getElementById("timeline");
  var data = JSON.parse(document.getElementById("series").textContent);
  var whole = data.duration_ms, bucket = data.bucket_ms;
  var last = Math.max(0, Math.ceil(whole / bucket) - 1), least = Math.min(whole, bucket * 6);
  var drawing = box.querySelector(".times .drawing");
  var view = { from: 0, to: whole }, current = -1, drag = null;

  function all(selector, each) { Array.prototype.forEach.call(box.querySelectorAll(selector), each); }
  function make(name, attributes, text) {
    var svg = /^(g|line|text)$/.test(name);
    var it = svg ? document.createElementNS(drawing.firstChild.namespaceURI, name) : document.createElement(name);
    Object.keys(attributes).forEach(function (key) { it.setAttribute(key, attributes[key]); });
    if (text !== undefined) it.textContent = text;
    return it;
  }

  // Words ------------------------------------------------------------------------------------------------------------
  function time(ms) {
    var s = ms / 1000, parts = [];
    if (s < 60) return (Math.round(s * 100) / 100) + " s";
    s = Math.round(s * 10) / 10;
    var whole_s = Math.floor(s);
    if (whole_s >= 86400) parts.push(Math.floor(whole_s / 86400) + " d");
    if (whole_s % 86400 >= 3600) parts.push(Math.floor(whole_s % 86400 / 3600) + " h");
    if (whole_s % 3600 >= 60) parts.push(Math.floor(whole_s % 3600 / 60) + " min");
    if (whole_s < 86400 && s % 60 > 0) parts.push((Math.round(s % 60 * 10) / 10) + " s");
    return parts.join(" ");
  }
  function number(value) { return value.toLocaleString("en-US", { maximumFractionDigits: value < 10 ? 1 : 0 }); }
  function share(part, of) {
    var percent = 100 * part / of;
    return number(part > 0 && part < of ? Math.min(99.9, Math.max(0.1, percent)) : percent) + " %";
  }
  function served(ok, failed) {
    if (!(ok + failed)) return "no requests";
    return share(ok, ok + failed) + " served" + (failed ? ", " + number(failed) + " of " : " of ") + number(ok + failed) + (failed ? " failed" : "");
  }
  function words(id, at) {
    var plot = data.plots[id];
    if (!plot) return "";
    if (plot.lines) return plot.lines.map(function (line) { return number(line[1][at] || 0) + " " + line[0]; }).join(", ");
    if (plot.p50) {
      if (plot.p50[at] == null || plot.p90[at] == null || plot.p99[at] == null) return "no calls";
      return "99th " + number(plot.p99[at]) + " ms, 90th " + number(plot.p90[at]) + " ms, median " + number(plot.p50[at]) + " ms";
    }
    if (plot.calls) {
      var width = Math.min(bucket, whole - at * bucket) || bucket;
      return number((plot.calls[at] || 0) * plot.unit_ms / width) + " per " + plot.unit;
    }
    var totals = plot.of ? data.plots[plot.of] : plot, ok = totals.ok[at] || 0, failed = totals.failed[at] || 0;
    if (!plot.of || !(ok + failed)) return served(ok, failed);
    var cached = plot.cached[at] || 0, held = plot.held[at] || 0;
    return [["KMS", ok - cached - held], ["cached key", cached], ["held key", held], ["failed", failed]]
      .filter(function (part) { return part[1] > 0; })
      .map(function (part) { return part[0] + " " + share(part[1], ok + failed); }).join(", ");
  }

  // Reading ----------------------------------------------------------------------------------------------------------
  function place() {
    if (current < 0) return;
    var middle = (current * bucket + Math.min((current + 1) * bucket, whole)) / 2;
    var x = (middle - view.from) / (view.to - view.from) * 100 + "%";
    all("line.cursor", function (line) { line.setAttribute("x1", x); line.setAttribute("x2", x); });
  }
  function show(at, aloud) {
    if (at === current) return;
    current = at;
    box.classList.add("reading");
    place();
    var from = at * bucket, when = time(from) + " – " + time(Math.min(from + bucket, whole)), said = [when];
    all("[data-now]", function (here) {
      var id = here.getAttribute("data-now");
      here.textContent = id === "time" ? when : words(id, at);
      var row = here.closest(".row");
      if (id !== "time" && row.offsetParent) said.push(row.querySelector(".name").textContent.trim() + ": " + here.textContent);
    });
    if (aloud) document.getElementById("reading").textContent = said.join("; ");
  }
  function hide() { current = -1; box.classList.remove("reading"); }

  // Zoom and pan -----------------------------------------------------------------------------------------------------
  var STEPS = [1, 2, 5, 10, 20, 50, 100, 200, 500];
  [1e3, 6e4].forEach(function (unit) { [1, 2, 5, 10, 15, 30].forEach(function (n) { STEPS.push(n * unit); }); });
  [1, 2, 3, 6, 12, 24, 48, 120, 240].forEach(function (n) { STEPS.push(n * 36e5); });
  var asWritten = [];
  all("svg.axis, g.grids", function (it) { asWritten.push([it, Array.prototype.slice.call(it.childNodes)]); });

  function ticks() {
    var room = Math.max(2, Math.floor(drawing.clientWidth / 120)), width = view.to - view.from, out = [];
    var step = STEPS.filter(function (step) { return width / step <= room; })[0] || width;
    for (var at = Math.ceil(view.from / step) * step; at <= view.to; at += step) out.push(at);
    return out;
  }
  function drawTicks() {
    var zoomed = view.to - view.from < whole, at = zoomed ? ticks() : [];
    asWritten.forEach(function (pair) {
      var it = pair[0];
      while (it.firstChild) it.removeChild(it.firstChild);
      if (!zoomed) return pair[1].forEach(function (child) { it.appendChild(child); });
      at.forEach(function (ms) {
        var share = (ms - view.from) / (view.to - view.from) * 100, x = share + "%";
        if (it.localName === "g") return it.appendChild(make("line", { "class": "grid", x1: x, x2: x, y1: 0, y2: "100%" }));
        var anchor = share < 6 ? "start" : share > 94 ? "end" : "middle";
        it.appendChild(make("line", { x1: x, x2: x, y1: 0, y2: 4 }));
        it.appendChild(make("text", { x: x, y: 17, "text-anchor": anchor }, ms ? time(ms) : "0"));
      });
    });
  }
  function look(from, to) {
    var width = Math.min(whole, Math.max(least, to - from));
    from = Math.max(0, Math.min(whole - width, (from + to - width) / 2));
    view = { from: from, to: from + width };
    all("svg.time", function (svg) {
      var old = svg.getAttribute("viewBox").split(" ");
      svg.setAttribute("viewBox", [from / bucket, old[1], width / bucket, old[3]].join(" "));
    });
    drawTicks();
    place();
    var zoomed = width < whole;
    box.classList.toggle("zoomed", zoomed);
    status.textContent = zoomed ? time(view.from) + " to " + time(view.to) : "the whole run";
    buttons.forEach(function (button) {
      var it = button[0], needs = button[1];
      it.disabled = needs === "in" ? width <= least : !zoomed;
    });
  }
  function zoom(factor, around) {
    look(around - (around - view.from) * factor, around + (view.to - around) * factor);
  }
  function pan(share) {
    var by = Math.max(-view.from, Math.min(whole - view.to, share * (view.to - view.from)));
    look(view.from + by, view.to + by);
  }
  function middle() {
    var reading = (current + 0.5) * bucket;
    return current >= 0 && reading > view.from && reading < view.to ? reading : (view.from + view.to) / 2;
  }

  // Pointer ----------------------------------------------------------------------------------------------------------
  function shareAt(event) {
    var area = drawing.getBoundingClientRect();
    return (event.clientX - area.left) / area.width;
  }
  function timeAt(share) { return view.from + Math.max(0, Math.min(1, share)) * (view.to - view.from); }
  function under(event) {
    var share = shareAt(event);
    if (share < 0 || share > 1) return hide();
    show(Math.min(last, Math.floor(timeAt(share) / bucket)), false);
  }
  var brush = make("div", { "class": "brush" });
  box.appendChild(brush);
  function drawBrush(a, b) {
    var area = drawing.getBoundingClientRect(), left = area.left - box.getBoundingClientRect().left;
    brush.style.left = left + Math.max(0, Math.min(a, b)) * area.width + "px";
    brush.style.width = (Math.min(1, Math.max(a, b)) - Math.max(0, Math.min(a, b))) * area.width + "px";
  }
  box.addEventListener("pointerdown", function (event) {
    under(event);
    var here = event.target.closest(".drawing");
    if (!here || event.button) return;
    drag = { pans: !!here.closest(".times"), began: shareAt(event), view: view };
    box.setPointerCapture(event.pointerId);
  });
  box.addEventListener("pointermove", function (event) {
    under(event);
    if (!drag) return;
    var share = shareAt(event);
    if (drag.pans) {
      var by = (drag.began - share) * (drag.view.to - drag.view.from);
      by = Math.max(-drag.view.from, Math.min(whole - drag.view.to, by));
      return look(drag.view.from + by, drag.view.to + by);
    }
    drag.far = Math.abs(share - drag.began) > 0.015;
    box.classList.toggle("brushing", drag.far);
    drawBrush(drag.began, share);
  });
  function drop(event) {
    var done = drag;
    drag = null;
    box.classList.remove("brushing");
    if (!done || done.pans || !done.far || event.type === "pointercancel") return;
    var a = timeAt(done.began), b = timeAt(shareAt(event));
    look(Math.min(a, b), Math.max(a, b));
  }
  box.addEventListener("pointerup", drop);
  box.addEventListener("pointercancel", drop);
  box.addEventListener("pointerleave", function (event) { if (event.pointerType === "mouse" && !drag) hide(); });
  box.addEventListener("dblclick", function (event) { if (event.target.closest(".drawing")) look(0, whole); });
  box.addEventListener("wheel", function (event) {
    var sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    var pans = sideways || event.shiftKey, zooms = event.ctrlKey || event.metaKey || event.altKey;
    // A wheel alone scrolls the page, as everywhere.
    if (!zooms && !(pans && view.to - view.from < whole)) return;
    event.preventDefault();
    if (zooms) zoom(Math.exp(event.deltaY * 0.002), timeAt(shareAt(event)));
    else pan((sideways ? event.deltaX : event.deltaY) / drawing.clientWidth);
    under(event);
  }, { passive: false });

  // Keyboard ---------------------------------------------------------------------------------------------------------
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", "Timeline. Arrow keys read the values, plus and minus zoom, Shift with an arrow key pans, 0 shows the whole run, Escape ends.");
  box.addEventListener("keydown", function (event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    var page = Math.max(1, Math.round((view.to - view.from) / bucket / 20));
    var step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity }[event.key];
    if (event.key === "+" || event.key === "=") zoom(0.5, middle());
    else if (event.key === "-") zoom(2, middle());
    else if (event.key === "0") look(0, whole);
    else if (event.key === "Escape") { hide(); look(0, whole); }
    else if (event.shiftKey && Math.abs(step) === 1) pan(step / 4);
    else if (step !== undefined) {
      var inView = Math.floor(view.from / bucket), at = current < 0 ? (step < 0 ? inView + 1 : inView - 1) : current;
      show(Math.max(0, Math.min(last, at + step)), true);
      if (current * bucket < view.from) pan((current * bucket - view.from) / (view.to - view.from));
      if ((current + 1) * bucket > view.to) pan(((current + 1) * bucket - view.to) / (view.to - view.from));
    } else return;
    event.preventDefault();
  });
  box.addEventListener("blur", hide);

  // Buttons ----------------------------------------------------------------------------------------------------------
  var tools = make("div", { "class": "tools", role: "toolbar", "aria-label": "Zoom in time" });
  var status = make("span", { "aria-live": "polite" });
  var buttons = [
    ["+", "Zoom in", "in", function () { zoom(0.5, (view.from + view.to) / 2); }],
    ["−", "Zoom out", "out", function () { zoom(2, (view.from + view.to) / 2); }],
    ["‹", "Earlier", "out", function () { pan(-0.5); }],
    ["›", "Later", "out", function () { pan(0.5); }],
    ["Whole run", "Show the whole run", "out", function () { look(0, whole); }]
  ].map(function (it) {
    var button = make("button", { type: "button", "aria-label": it[1], title: it[1] }, it[0]);
    button.addEventListener("click", it[3]);
    tools.appendChild(button);
    return [button, it[2]];
  });
  tools.appendChild(status);
  box.parentNode.insertBefore(tools, box);

  // Services ---------------------------------------------------------------------------------------------------------
  box.classList.add("scripted");
  all("[data-more]", function (name) {
    var more = document.getElementById(name.getAttribute("data-more"));
    if (!more) return;
    var button = make("button", { type: "button", "class": "pick", "aria-expanded": "false", "aria-controls": more.id }, name.textContent);
    name.textContent = "";
    name.appendChild(button);
    button.addEventListener("click", function () {
      var open = more.classList.toggle("open");
      button.setAttribute("aria-expanded", String(open));
      place();
    });
  });

  // A title child would cover the read-out with a tooltip: the same words as a label do not.
  all("svg.plot", function (plot) {
    var title = plot.querySelector("title");
    plot.setAttribute("aria-label", title.textContent);
    plot.removeAttribute("aria-labelledby");
    plot.removeChild(title);
  });

  // Paper shows the whole run.
  var before = null;
  window.addEventListener("beforeprint", function () { before = view; hide(); look(0, whole); });
  window.addEventListener("afterprint", function () { if (before) look(before.from, before.to); before = null; });
  look(0, whole);
  document.getElementById("hint").appendChild(make("span", { "class": "aim" },
    " Point at a chart to read its values. Drag across it, or turn the wheel with Ctrl, to zoom; drag the time axis to pan. A service's name unfolds its caches, its exceptions and single requests. With the keyboard: focus the timeline, then arrow keys, + and −."));
})();
