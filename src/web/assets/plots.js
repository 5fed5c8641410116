// Small plots in plain SVG. All text goes in as text nodes.

const SVG = "http://www.w3.org/2000/svg";
/// What a plot has where it is not laid out yet.
const [WIDTH, HEIGHT] = [240, 88];

/// Upper ends of the latency histogram's bars, in milliseconds; the last has none.
export const LATENCIES = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000];

export function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function short(number) {
  const units = [[1e9, "G"], [1e6, "M"], [1e3, "k"]];
  const unit = units.find(([size]) => number >= size);
  return unit ? (number / unit[0]).toFixed(number / unit[0] < 10 ? 1 : 0) + unit[1] : String(Math.round(number));
}

/// A unit is a pixel, so that text is not stretched.
function room(svg) {
  const [width, height] = [svg.clientWidth || WIDTH, svg.clientHeight || HEIGHT];
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  return [width, height];
}

function bars(svg, values, labels, said) {
  const [width, height] = room(svg);
  svg.setAttribute("aria-label", said);
  const [top, bottom] = [12, height - 12];
  const highest = Math.max(1, ...values);
  const step = width / values.length;
  const drawn = values.map((value, at) => {
    const tall = (value / highest) * (bottom - top);
    return shape("rect", { class: "bar", x: at * step, y: bottom - tall, width: Math.max(step - 0.6, 0.6), height: tall });
  });
  drawn.push(shape("line", { class: "axis", x1: 0, x2: width, y1: bottom, y2: bottom }));
  drawn.push(shape("text", { x: 0, y: 9 }, short(highest)));
  for (const [part, anchor, text] of labels) drawn.push(shape("text", { x: part * width, y: height - 2, "text-anchor": anchor }, text));
  svg.replaceChildren(...drawn);
}

/// One value a second, the newest last.
export function timeline(svg, values, unit) {
  const now = values[values.length - 2] ?? 0;
  bars(svg, values, [[0, "start", `${values.length} s ago`], [1, "end", "now"]], `${short(now)} ${unit} in the last second, ${short(Math.max(...values))} at most`);
}

export function latencies(svg, counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  const most = counts.indexOf(Math.max(...counts));
  const label = (at) => (at < LATENCIES.length ? `${LATENCIES[at]} ms` : "more");
  const ends = [[0, "start", "≤ 0.5 ms"], [0.5, "middle", "≤ 20 ms"], [1, "end", "> 5 s"]];
  bars(svg, counts, ends, total ? `${short(total)} replies, most of them up to ${label(most)}` : "no reply yet");
}

/// A bar for each hop and version: `[["client", {none: 3}], …]`.
export function versions(svg, hops) {
  const [room_x] = room(svg);
  const drawn = [], said = [];
  hops.forEach(([hop, counts], row) => {
    const entries = Object.entries(counts).filter(([, count]) => count > 0).sort();
    const total = entries.reduce((sum, [, count]) => sum + count, 0);
    const y = 6 + row * 42;
    drawn.push(shape("text", { x: 0, y: y + 8 }, hop));
    let x = 0;
    for (const [version, count] of entries) {
      const width = (count / total) * room_x;
      drawn.push(shape("rect", { class: version === "none" ? "bar plain" : "bar", x, y: y + 12, width: Math.max(width - 1, 1), height: 10 }));
      drawn.push(shape("text", { x: Math.min(x, room_x - 60), y: y + 32 }, `${version} ${Math.round((100 * count) / total)} %`));
      x += width;
    }
    said.push(`${hop}: ${entries.map(([version, count]) => `${version} ${count}`).join(", ") || "nothing yet"}`);
  });
  svg.setAttribute("aria-label", said.join("; "));
  svg.replaceChildren(...drawn);
}
