// What may move, painted: a grey canvas of the view's size, white may move. Strokes lighten or darken, so that going
// over a soft edge twice does not harden it.

const MOST_SNAPSHOTS = 20;

export class Mask {
  constructor(width, height) {
    this.canvas = new OffscreenCanvas(width, height);
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.on = false; // off: all may move
    this.stamp = 0; // grows with each change
    this.fill("#000");
  }

  fill(colour) {
    this.context.globalCompositeOperation = "source-over";
    this.context.fillStyle = colour;
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.stamp++;
  }

  all() {
    this.on = false;
    this.fill("#fff");
  }

  none() {
    this.on = true;
    this.fill("#000");
  }

  invert() {
    if (!this.on) return this.none();
    this.context.globalCompositeOperation = "difference";
    this.context.fillStyle = "#fff";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    this.stamp++;
  }

  // The first stroke of a mask: paint adds to nothing, the eraser takes from all.
  begin(paints) {
    if (!this.on) this.fill(paints ? "#000" : "#fff");
    this.on = true;
  }

  // One touch of the brush, view pixels. soft: 0 … 1, the share of the radius that fades.
  touch(x, y, radius, soft, paints) {
    const [inner, outer] = paints ? ["#fff", "#000"] : ["#000", "#fff"];
    const shade = this.context.createRadialGradient(x, y, radius * (1 - soft) * 0.999, x, y, radius);
    shade.addColorStop(0, inner);
    shade.addColorStop(1, outer);
    this.context.globalCompositeOperation = paints ? "lighten" : "darken";
    this.context.fillStyle = shade;
    this.context.beginPath();
    this.context.arc(x, y, radius, 0, 2 * Math.PI);
    this.context.fill();
    this.stamp++;
  }

  // From one place to another without gaps.
  stroke([x0, y0], [x1, y1], radius, soft, paints) {
    const steps = Math.max(1, Math.ceil(Math.hypot(x1 - x0, y1 - y0) / (radius / 4)));
    for (let i = 1; i <= steps; i++) this.touch(x0 + ((x1 - x0) * i) / steps, y0 + ((y1 - y0) * i) / steps, radius, soft, paints);
  }

  snapshot() {
    const copy = new OffscreenCanvas(this.canvas.width, this.canvas.height);
    copy.getContext("2d").drawImage(this.canvas, 0, 0);
    return { on: this.on, canvas: copy };
  }

  restore({ on, canvas }) {
    this.on = on;
    this.context.globalCompositeOperation = "source-over";
    this.context.drawImage(canvas, 0, 0);
    this.stamp++;
  }

  async load(url) {
    const answer = await fetch(url);
    if (!answer.ok) return;
    const picture = await createImageBitmap(await answer.blob());
    this.context.globalCompositeOperation = "source-over";
    this.context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
    this.on = true;
    this.stamp++;
  }

  png() {
    return this.canvas.convertToBlob({ type: "image/png" });
  }
}

// Older snapshots than the last few are let go: each is as large as the view.
export function trimmed(entries) {
  const held = entries.filter((entry) => entry.mask);
  for (const entry of held.slice(0, -MOST_SNAPSHOTS)) entry.mask = null;
  return entries;
}
