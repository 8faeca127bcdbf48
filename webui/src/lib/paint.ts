// At most one repaint a frame, and not more than thirty a second, however fast tokens come.

const PAINT_MS = 33;
/** A hidden tab gets no frames; its state still moves, slower. */
const HIDDEN_PAINT_MS = 100;

/** Returns a function that runs `paint` soon; calls in between are one. */
export function painter(paint: () => void): () => void {
  let scheduled = false;
  let last_ms = 0;
  const run = (): void => {
    scheduled = false;
    last_ms = performance.now();
    paint();
  };
  return () => {
    if (scheduled) return;
    scheduled = true;
    if (document.hidden) {
      setTimeout(run, HIDDEN_PAINT_MS);
      return;
    }
    const wait_ms = PAINT_MS - (performance.now() - last_ms);
    if (wait_ms <= 0) requestAnimationFrame(run);
    else setTimeout(() => requestAnimationFrame(run), wait_ms);
  };
}
