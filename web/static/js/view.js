// Where the photo lies on the canvas. Photo pixels: the centre of the first is 0,0, so a photo covers −½ … width − ½.
// view: {k, x, y}: canvas pixels (CSS) per photo pixel, and where the photo's corner lies.

const MARGIN = 16;
const LARGEST = 40;

export const toScreen = (view, x, y) => [(x + 0.5) * view.k + view.x, (y + 0.5) * view.k + view.y];

export const toPhoto = (view, x, y) => [(x - view.x) / view.k - 0.5, (y - view.y) / view.k - 0.5];

export function fitted([width, height], [across, down]) {
  const k = Math.min((across - 2 * MARGIN) / width, (down - 2 * MARGIN) / height, 4);
  return { k, x: (across - width * k) / 2, y: (down - height * k) / 2 };
}

// So that the box [x0, y0, x1, y1] of the photo fills the canvas.
export function fittedTo([x0, y0, x1, y1], [across, down]) {
  const k = Math.min((across - 2 * MARGIN) / (x1 - x0), (down - 2 * MARGIN) / (y1 - y0), LARGEST);
  return { k, x: across / 2 - ((x0 + x1) / 2 + 0.5) * k, y: down / 2 - ((y0 + y1) / 2 + 0.5) * k };
}

// Zoomed by `factor` about a place of the canvas, which stays where it is.
export function zoomed(view, factor, x, y) {
  const k = Math.min(Math.max(view.k * factor, 0.02), LARGEST);
  const by = k / view.k;
  return { k, x: x - (x - view.x) * by, y: y - (y - view.y) * by };
}

export const moved = (view, dx, dy) => ({ ...view, x: view.x + dx, y: view.y + dy });
