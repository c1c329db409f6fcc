// What is drawn and not yet dragged, as values: every change makes a new one, so that undo is a list of them.
// Points: {id, x, y, tx, ty}, photo pixels: the handle and its target. Moves: name → number.

export const EMPTY = Object.freeze({ points: [], moves: {} });

export const LOST = 0.1; // confidence at which a handle is lost

const MOST_UNDOS = 100;
const SNAP_REACH = 0.25; // distances of the eyes, as `realdrag edit --snap` has it
const KEPT_DECIMALS = 3; // of a photo pixel: what is shown is what is dragged

let nextId = 1;

export const rounded = (x) => Number(x.toFixed(KEPT_DECIMALS));

export function withPoint(draft, x, y) {
  const point = { id: nextId++, x: rounded(x), y: rounded(y), tx: rounded(x), ty: rounded(y) };
  return [{ ...draft, points: [...draft.points, point] }, point.id];
}

export function withPlaces(draft, id, places) {
  const kept = Object.fromEntries(Object.entries(places).map(([key, value]) => [key, rounded(value)]));
  return { ...draft, points: draft.points.map((p) => (p.id === id ? { ...p, ...kept } : p)) };
}

export const without = (draft, id) => ({ ...draft, points: draft.points.filter((p) => p.id !== id) });

export const withMove = (draft, name, number) => ({ ...draft, moves: { ...draft.moves, [name]: number } });

export const hasMoves = (draft) => Object.values(draft.moves).some((number) => number !== 0);

// Points that go nowhere are pins under construction: they are not sent.
const going = (draft) => draft.points.filter((p) => p.x !== p.tx || p.y !== p.ty);

export const arrows = (draft) => going(draft).map((p) => [p.x, p.y, p.tx, p.ty]);

export const fromArrows = (pairs) => pairs.map(([x, y, tx, ty]) => ({ id: nextId++, x, y, tx, ty }));

// A drag is over: what arrived is done; the rest, that of moves too, are points that can go on from where they are.
// With the ids of those that were lost.
export function afterDrag(draft, drag, stop) {
  const sent = going(draft);
  const points = [];
  const lost = [];
  if (drag.outcome !== "REACHED") {
    drag.handles.forEach((handle, i) => {
      if (handle.distance_end <= stop) return;
      const id = sent[i]?.id ?? nextId++;
      points.push({ id, x: handle.end[0], y: handle.end[1], tx: handle.target[0], ty: handle.target[1] });
      if (handle.confidence <= LOST) lost.push(id);
    });
  }
  return { draft: { points, moves: {} }, lost };
}

// The nearest landmark's place, or the point itself where none is near.
export function snapped(x, y, landmarks) {
  if (!landmarks) return [x, y];
  const centre = (from, to) => {
    const part = landmarks.slice(from, to);
    return [0, 1].map((k) => part.reduce((sum, p) => sum + p[k], 0) / part.length);
  };
  const [left, right] = [centre(36, 42), centre(42, 48)];
  const reach = SNAP_REACH * Math.hypot(right[0] - left[0], right[1] - left[1]);
  let best = [x, y];
  let nearest = reach;
  for (const mark of landmarks) {
    const distance = Math.hypot(mark[0] - x, mark[1] - y);
    if (distance < nearest) [nearest, best] = [distance, mark];
  }
  return best;
}

export class Undos {
  constructor() {
    this.past = [];
    this.future = [];
  }

  // Remember `entry` as what was before a change.
  push(entry) {
    this.past = [...this.past, entry].slice(-MOST_UNDOS);
    this.future = [];
  }

  // What was before `now`, or null.
  undo(now) {
    if (!this.past.length) return null;
    this.future.push(now);
    return this.past.pop();
  }

  redo(now) {
    if (!this.future.length) return null;
    this.past.push(now);
    return this.future.pop();
  }

  clear() {
    this.past = [];
    this.future = [];
  }
}
