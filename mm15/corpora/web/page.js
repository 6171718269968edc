// What a user sees of a page, as plain data: controls, pictures, icons and runs of text with their boxes.
//
// Boxes are [x1, y1, x2, y2] in pixels of a screenshot of the visual viewport, cut by it and by every ancestor that
// clips. `share` is how much of the element is left; `seen` whether it is what is painted at the centre of that.
// Roles and names are Chromium's own (computedRole, computedName). Needs start.js. 10-100 ms a page.
() => {
  const { listens } = window.__mm15;
  const vv = window.visualViewport;
  const view = [vv.offsetLeft, vv.offsetTop, vv.offsetLeft + vv.width, vv.offsetTop + vv.height];
  const scale = vv.scale * window.devicePixelRatio;
  const elements = [];
  const runs = [];
  const generated = [];
  let ghosts = 0; // inputs that are hidden while their label, which may draw them, is not

  const SKIP = new Set("script style noscript template head meta link title option datalist source track".split(" "));
  const PICTURES = new Set("img svg canvas video object embed".split(" "));
  const REPLACED = new Set([...PICTURES, "input", "select", "textarea", "iframe", "frame", "progress", "meter"]);
  const CONTROLS = new Set("button input select textarea summary progress meter".split(" "));
  const ROLES = new Set(
    ("button checkbox combobox dialog alertdialog link listbox menuitem menuitemcheckbox menuitemradio option " +
      "progressbar radio searchbox slider spinbutton switch tab textbox treeitem").split(" ")
  );
  const PRIVATE = /^[\uE000-\uF8FF\u{F0000}-\u{10FFFD}\s]+$/u;
  const PHOTO = /\.(jpe?g|webp|avif)\b|^url\("data:image\/(jpeg|webp|avif)/i;
  const ICON_FONT = /icon|symbol|awesome|glyph/i;

  const { min, max } = Math;
  const cross = (a, b) => [max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])];
  const around = (a, b) => [min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])];
  const edges = (r) => [r.left, r.top, r.right, r.bottom];
  const area = (b) => Math.max(0, b[2] - b[0]) * Math.max(0, b[3] - b[1]);
  const onScreen = (el) => el.checkVisibility() && area(cross(edges(el.getBoundingClientRect()), view)) > 0;
  const pixels = (b) => b.map((v, i) => Math.round((v - view[i % 2]) * scale * 100) / 100);
  const share = (whole, part) => (area(whole) > 0 ? Math.round((area(part) / area(whole)) * 1000) / 1000 : 0);
  const clear = (colour) => /^rgba\(.*, 0\)$|^transparent$| \/ 0\)$/.test(colour);
  // The text that `content` of a pseudo-element writes; "?" where only the browser knows it (counters, attributes).
  const written = (content) => {
    const quoted = content.match(/^"((?:[^"\\]|\\.)*)"/);
    if (quoted) return quoted[1];
    return /counter|attr|quote/.test(content) ? "?" : "";
  };
  const hasText = (el) => [...el.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
  const up = (el) => el.assignedSlot || el.parentElement || (el.getRootNode().host ?? null);
  const within = (inner, outer) => {
    for (let el = inner; el; el = up(el)) if (el === outer) return true;
    return false;
  };

  // ------------------------------------------------------------------------------------------- what is painted where

  const painters = new Map();
  const paints = (el) => {
    if (painters.has(el)) return painters.get(el);
    const decorated = (style) =>
      !clear(style.backgroundColor) || style.backgroundImage !== "none" || style.boxShadow.includes("inset");
    const pseudo = ["::before", "::after"].some((which) => {
      const style = getComputedStyle(el, which);
      return style.content !== "none" && style.content !== "normal" && decorated(style);
    });
    const answer =
      el.checkVisibility({ opacityProperty: true, visibilityProperty: true }) &&
      (REPLACED.has(el.localName) || el.ownerSVGElement || hasText(el) || pseudo || decorated(getComputedStyle(el)));
    painters.set(el, answer);
    return answer;
  };
  // Whether `el` (or, with `inside`, something in it) is the topmost thing painted at a point.
  const topmost = (el, x, y, inside) => {
    for (const found of el.getRootNode().elementsFromPoint(x, y)) {
      if (found === el || (inside && within(found, el))) return true;
      if (paints(found)) return false;
    }
    return false;
  };
  const between = (low, high, part) =>
    Math.min(Math.max(low + (high - low) * part, low + 1), Math.max(high - 1, low + 1));
  const at = (el, box, points, inside) =>
    points.every(([x, y]) => topmost(el, between(box[0], box[2], x), between(box[1], box[3], y), inside));
  const MIDDLE = [[0.5, 0.5]];
  const SIDES = [[0.15, 0.5], [0.85, 0.5], [0.5, 0.15], [0.5, 0.85]]; // not the corners, which may be round
  const along = (box) => {
    const steps = Math.ceil((box[2] - box[0]) / 16) + 1; // so that nothing wider than 16 pixels lies over a word
    return [...Array(steps + 1).keys()].map((n) => [n / steps, 0.5]);
  };
  const hits = []; // hit tests, made when the walk is over

  // ----------------------------------------------------------------------------------------------------------- icons

  const loaded = (family) => {
    const first = family.split(",")[0].replace(/["']/g, "").trim();
    return [...document.fonts].some((f) => f.family.replace(/["']/g, "") === first && f.status === "loaded");
  };
  // How an element without further content is an icon: by a font's private letters, its ligatures, or a background.
  const glyph = (el, style) => {
    if (el.childElementCount || el.ownerSVGElement) return null;
    const text = el.textContent.trim();
    if (text) {
      if (PRIVATE.test(text)) return loaded(style.fontFamily) ? "font" : null;
      const ligature = ICON_FONT.test(style.fontFamily.split(",")[0]) && /^[a-z0-9_]+$/.test(text);
      return ligature && loaded(style.fontFamily) ? "ligature" : null;
    }
    for (const which of ["::before", "::after"]) {
      const pseudo = getComputedStyle(el, which);
      const content = written(pseudo.content);
      if (content && PRIVATE.test(content)) return loaded(pseudo.fontFamily) ? "font" : null;
    }
    const images = [style.backgroundImage, style.maskImage, getComputedStyle(el, "::before").maskImage];
    return images.some((value) => /^url\(/.test(value) && !PHOTO.test(value)) ? "background" : null;
  };

  // -------------------------------------------------------------------------------------------------------- elements

  // The box of an element; of an inline one, whose own is only its line, that of the things in it.
  const extent = (el, style, box) => {
    if (style.display !== "inline") return box;
    const inner = [...el.querySelectorAll("*")].filter((one) => {
      return !["absolute", "fixed"].includes(getComputedStyle(one).position) && onScreen(one);
    });
    const boxes = [...(hasText(el) ? [box] : []), ...inner.map((one) => edges(one.getBoundingClientRect()))];
    return boxes.length ? boxes.reduce(around) : box;
  };
  const kindOf = (el, tag, style, parent) => {
    const role = el.getAttribute("role");
    if (tag === "iframe" || tag === "frame") return "frame";
    if (el.ownerSVGElement) return null;
    if (PICTURES.has(tag)) return "picture";
    const control =
      (CONTROLS.has(tag) && el.type !== "hidden") ||
      (tag === "a" && el.hasAttribute("href")) ||
      (role && ROLES.has(role.trim().split(/\s+/)[0])) ||
      (el.isContentEditable && !up(el)?.isContentEditable) ||
      tag === "dialog";
    if (control) return "control";
    if (glyph(el, style)) return "glyph";
    const root = el === document.body || el === document.documentElement;
    if (!root && (el.onclick || listens.has(el))) return "other";
    return style.cursor === "pointer" && (!parent || parent.cursor !== "pointer") ? "other" : null;
  };
  const shown = (el, tag) => {
    if (tag === "select") return [...el.selectedOptions].map((o) => o.label).join(" ");
    if (tag === "textarea" || tag === "input") {
      if (["checkbox", "radio", "range", "color", "file", "image"].includes(el.type)) return "";
      const own = { submit: "Submit", reset: "Reset" }[el.type] ?? ""; // what Chromium writes on them
      return (el.type === "password" ? "" : el.value) || el.placeholder || own;
    }
    return "";
  };
  const drawn = (el, tag) => {
    if (tag === "img") return el.complete && el.naturalWidth > 0;
    if (tag === "input" && el.type === "image") return el.complete && el.naturalWidth > 0;
    return tag === "video" ? el.readyState >= 2 || el.poster !== "" : tag !== "object" && tag !== "embed";
  };
  const record = (el, tag, kind, style, box, clip, state) => {
    const left = cross(cross(box, clip), view);
    if (area(left) <= 0 || !el.checkVisibility({ visibilityProperty: true, contentVisibilityAuto: true })) return null;
    const use = tag === "svg" ? el.querySelector("use") : null;
    const disabled =
      style.pointerEvents === "none" ||
      el.matches(":disabled, [aria-disabled=true], [aria-disabled=true] *, [inert], [inert] *");
    const made = {
      kind,
      tag,
      role: el.computedRole || "",
      name: (el.computedName || "").replace(/[\s\uE000-\uF8FF]+/g, " ").trim(),
      type: el.type && typeof el.type === "string" ? el.type : "",
      box: pixels(left),
      share: share(box, left),
      seen: false,
      clear: false,
      broken: el.getClientRects().length > 1,
      drawn: drawn(el, tag),
      pointer: style.cursor === "pointer",
      handler: state.handled,
      disabled,
      checked: el.checked ?? el.getAttribute("aria-checked") === "true",
      shows: shown(el, tag) || "",
      classes: el.getAttribute("class") || "",
      file: tag === "img" && !el.currentSrc.startsWith("data:") ? el.currentSrc.split(/[?#]/)[0].split("/").at(-1) : "",
      hint:
        [
          kind === "glyph" && glyph(el, style) === "ligature" ? el.textContent.trim() : "",
          use ? use.getAttribute("href") || use.getAttribute("xlink:href") || "" : "",
          ...["data-icon", "data-feather", "data-lucide", "icon", "uk-icon"].map((key) => el.getAttribute(key) || ""),
        ].find(Boolean) || "",
      parent: state.owner,
    };
    hits.push(() => {
      made.seen = at(el, left, MIDDLE, true);
      made.clear = made.seen && at(el, left, SIDES, true);
    });
    return made;
  };

  // ------------------------------------------------------------------------------------------------------------ text

  // Whether the browser has no font for a letter, and draws the same as for one that does not exist (U+0378).
  const drawings = new Map();
  const drawing = (letter, font) => {
    const key = `${letter} ${font}`;
    if (!drawings.has(key)) {
      const pen = new OffscreenCanvas(32, 32).getContext("2d", { willReadFrequently: true });
      pen.font = font;
      pen.fillText(letter, 4, 24);
      drawings.set(key, pen.getImageData(0, 0, 32, 32).data.join());
    }
    return drawings.get(key);
  };
  const missing = (text, style) => {
    const font = `${style.fontStyle} ${style.fontWeight} 20px ${style.fontFamily}`;
    if (/[\uE000-\uF8FF]/.test(text)) return true;
    const rare = [...text].filter((letter) => /[^\0-\u024f\u2000-\u206f\u20ac]/u.test(letter));
    return rare.some((letter) => drawing(letter, font) === drawing("\u0378", font));
  };

  let run = null;
  const cased = (word, transform) => {
    if (transform === "uppercase") return word.toUpperCase();
    if (transform === "lowercase") return word.toLowerCase();
    return word;
  };
  // The pieces of a word that lie on lines of their own: [text, rect].
  const pieces = (node, start, end) => {
    const range = document.createRange();
    const rects = (from, to) => {
      range.setStart(node, from);
      range.setEnd(node, to);
      return [...range.getClientRects()].filter((r) => r.width > 0 && r.height > 0);
    };
    const whole = rects(start, end);
    if (whole.length < 2) return whole.map((r) => [node.data.slice(start, end), edges(r)]);
    const found = [];
    for (let at = start; at < end; ) {
      const next = at + String.fromCodePoint(node.data.codePointAt(at)).length;
      const [rect] = rects(at, next);
      const last = found.at(-1);
      if (rect && last && Math.abs(last[1][1] - rect.top) < rect.height / 2) {
        last[0] += node.data.slice(at, next);
        last[1] = [Math.min(last[1][0], rect.left), last[1][1], Math.max(last[1][2], rect.right), last[1][3]];
      } else if (rect) found.push([node.data.slice(at, next), edges(rect)]);
      at = next;
    }
    return found;
  };
  const words = (node, el, style, clip, state) => {
    if (!node.data.trim()) {
      if (run) run.glued = false;
      return;
    }
    if (style.visibility !== "visible") return;
    const range = document.createRange();
    range.selectNodeContents(node);
    const rect = range.getBoundingClientRect();
    run ??= { heading: state.heading, exact: true, whole: true, words: [], glued: false, shown: false };
    let glued = run.glued && /^\S/.test(node.data);
    run.glued = /\S$/.test(node.data);
    if (rect.bottom <= view[1] || rect.top >= view[3] || area(edges(rect)) === 0) {
      run.whole = false;
      return;
    }
    const ink = clear(style.color) || clear(style.webkitTextFillColor) || parseFloat(style.fontSize) < 4;
    const hidden = ink || !el.checkVisibility({ opacityProperty: true, contentVisibilityAuto: true });
    const odd = style.fontVariantCaps !== "normal" || !["none", "uppercase", "lowercase"].includes(style.textTransform);
    if (odd || style.webkitTextSecurity !== "none") run.exact = false;
    for (const match of node.data.matchAll(/\S+/g)) {
      if (PRIVATE.test(match[0])) continue; // an icon without its font
      const cut = pieces(node, match.index, match.index + match[0].length);
      if (!cut.length) run.whole = false;
      if (missing(match[0], style)) run.exact = false;
      if (match[0].includes("\u00ad") || (cut.length > 1 && style.hyphens === "auto")) run.exact = false;
      for (const [text, box] of cut) {
        const left = cross(cross(box, clip), view);
        run.shown ||= area(left) > 0;
        const inside = !hidden && share(box, left) > 0.98;
        const clean = cased(text.replace(/[\u00ad\u200b\u2060\ufeff]/g, ""), style.textTransform);
        const word = [clean, pixels(box), false, state.owner, state.handled, glued];
        const into = run;
        hits.push(() => {
          word[2] = inside && at(el, left, along(left), false);
          into.whole &&= word[2];
        });
        if (clean) run.words.push(word);
        glued = true;
      }
      glued = false;
    }
  };
  const endRun = () => {
    if (run && run.shown) runs.push(run);
    run = null;
  };

  // ------------------------------------------------------------------------------------------------------------ walk

  const padding = (el, rect) => {
    const left = rect.left + el.clientLeft;
    const top = rect.top + el.clientTop;
    return [left, top, left + el.clientWidth, top + el.clientHeight];
  };
  const clipsOf = (el, style, rect, clips, mine, isRoot) => {
    let inner = mine;
    const inline = style.display === "inline" || style.display === "contents";
    if (!isRoot && !inline && (style.overflowX !== "visible" || style.overflowY !== "visible")) {
      const pad = padding(el, rect);
      if (style.overflowX === "visible") [pad[0], pad[2]] = [-1e6, 1e6];
      if (style.overflowY === "visible") [pad[1], pad[3]] = [-1e6, 1e6];
      inner = cross(mine, pad);
    }
    const moved = style.transform !== "none" || style.filter !== "none" || style.perspective !== "none";
    return {
      flow: inner,
      absolute: style.position !== "static" || moved ? inner : clips.absolute,
      fixed: moved ? inner : clips.fixed,
    };
  };
  const noteGenerated = (el) => {
    for (const which of ["::before", "::after"]) {
      const style = getComputedStyle(el, which);
      const text = written(style.content).trim();
      if (!text || PRIVATE.test(text) || style.display === "none" || style.visibility !== "visible") continue;
      if (parseFloat(style.opacity) === 0) continue;
      generated.push(text);
      if (run) run.exact = false;
    }
  };
  const visit = (el, parent, clips, state) => {
    const tag = el.localName;
    if (SKIP.has(tag)) return;
    const style = getComputedStyle(el);
    const out = style.position === "absolute" || style.position === "fixed";
    const unseen = parseFloat(style.opacity) < 0.05 || (out && style.clip !== "auto");
    if (style.display === "none" || unseen || /inset\((50|100)%/.test(style.clipPath)) {
      const inputs = tag === "input" ? [el] : el.querySelectorAll("input");
      ghosts += [...inputs].filter((input) => [...(input.labels ?? [])].some(onScreen)).length;
      return;
    }
    const mine = style.position === "fixed" ? clips.fixed : style.position === "absolute" ? clips.absolute : clips.flow;
    const inline = style.display === "inline" || style.display === "contents" || style.display.startsWith("ruby");
    const isRoot = el === document.body || el === document.documentElement;
    const rect = el.getBoundingClientRect();
    const near = rect.bottom > view[1] && rect.top < view[3];
    if (tag === "svg" && !near) return;
    const inner = { ...state };
    if (!inline) endRun();
    if (tag === "br" && run) run.glued = false;
    if (/^h[1-6]$/.test(tag) || el.getAttribute("role") === "heading") inner.heading = true;
    if (!isRoot && (el.onclick || listens.has(el) || (tag === "label" && el.control))) inner.handled = true;
    const kind = style.visibility === "visible" ? kindOf(el, tag, style, parent) : null;
    const made = kind ? record(el, tag, kind, style, extent(el, style, edges(rect)), mine, inner) : null;
    if (made) inner.owner = elements.push(made) - 1;
    if (kind === "glyph" || kind === "frame" || tag === "textarea" || tag === "select") return;
    const below = clipsOf(el, style, rect, clips, mine, isRoot);
    const slotted = tag === "slot" ? el.assignedNodes({ flatten: true }) : [];
    for (const child of slotted.length ? slotted : (el.shadowRoot ?? el).childNodes) {
      if (child.nodeType === 1) visit(child, style, below, inner);
      else if (child.nodeType === 3) words(child, slotted.length ? child.parentElement : el, style, below.flow, inner);
    }
    if (near && !el.ownerSVGElement) noteGenerated(el);
    if (!inline) endRun();
  };

  const start = { owner: -1, handled: false, heading: false };
  visit(document.documentElement, null, { flow: view, absolute: view, fixed: view }, start);
  const sheet = new CSSStyleSheet();
  sheet.replaceSync("* { pointer-events: auto !important }"); // so that hit tests meet everything that is painted
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  for (const hit of hits) hit();
  document.adoptedStyleSheets = document.adoptedStyleSheets.filter((other) => other !== sheet);
  const top = window.scrollY + vv.offsetTop;
  return { elements, runs, generated, ghosts, title: document.title, scale, top, height: vv.height };
};
