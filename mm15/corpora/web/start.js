// Runs in every page before its own scripts: the page stands still and is the same each time it is opened.
(() => {
  // Chance: mulberry32 with a fixed seed instead of Math.random.
  let state = 15;
  Math.random = () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
  };

  // Motion: animations and transitions reach their end at once.
  const still = new CSSStyleSheet();
  still.replaceSync(`*, *::before, *::after {
    animation-duration: 0s !important; animation-delay: 0s !important; transition: none !important;
    scroll-behavior: auto !important }`);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, still];

  // Nothing waits for a user or opens further windows.
  window.print = () => {};
  window.open = () => null;

  // What page.js asks for: elements that listen for taps, and when the page last changed.
  const listens = new WeakSet();
  const taps = new Set(["click", "mousedown", "mouseup", "pointerdown", "pointerup", "touchstart", "touchend"]);
  const add = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (type, ...rest) {
    if (taps.has(type) && this instanceof Element) listens.add(this);
    return add.call(this, type, ...rest);
  };
  let changed = performance.now();
  const watch = { subtree: true, childList: true, attributes: true, characterData: true };
  new MutationObserver(() => (changed = performance.now())).observe(document, watch);

  const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
  const waiting = () => [...document.images].some((img) => !img.complete && img.loading !== "lazy");

  // Waits until nothing has changed for `quiet` ms and pictures and fonts are there, `most` ms at most.
  const settle = async (quiet, most) => {
    const end = performance.now() + most;
    await Promise.race([document.fonts.ready, sleep(most)]);
    while (performance.now() < end && (waiting() || performance.now() - changed < quiet)) await sleep(20);
    for (const video of document.querySelectorAll("video")) {
      video.pause();
      video.currentTime = 0;
    }
    for (const animation of document.getAnimations()) {
      try {
        animation.finish();
      } catch {
        animation.cancel(); // an endless one
      }
    }
  };
  Object.defineProperty(window, "__mm15", { value: { listens, settle } });
})();
