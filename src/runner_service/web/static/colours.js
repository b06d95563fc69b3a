// Colours of terminals beyond the eight that have a class: 256 and 24 bits, kept readable on light and on dark.

const LIGHT_BACK = [0xff, 0xff, 0xff]; // --back of style.css
const DARK_BACK = [0x14, 0x17, 0x1a];
const LIGHT_TINT = [0xd6, 0xda, 0xde], DARK_TINT = [0x4a, 0x3a, 0x10]; // of the eight backgrounds, the hardest to read on
const BLACK = [0, 0, 0], WHITE = [255, 255, 255];
const MIN_CONTRAST = 4.5;
const CUBE = [0, 95, 135, 175, 215, 255];

/** The class of a colour of the palette of 256, `fg3` or `fgx-ff8700`; empty for what is none. */
export function indexedColour(kind, index) {
  if (!(index >= 0 && index <= 255)) return "";
  if (index < 16) return `${kind}${index % 8}`;
  if (index >= 232) return trueColour(kind, Array(3).fill(8 + (index - 232) * 10));
  const at = index - 16;
  return trueColour(kind, [CUBE[Math.floor(at / 36)], CUBE[Math.floor(at / 6) % 6], CUBE[at % 6]]);
}

/** The class of a colour of 24 bits. */
export function trueColour(kind, rgb) {
  if (rgb.length !== 3 || !rgb.every((each) => each >= 0 && each <= 255)) return "";
  return `${kind}x-${rgb.map((each) => each.toString(16).padStart(2, "0")).join("")}`;
}

/** Gives an element the classes of a style, and the colours that have none. */
export function paint(element, style) {
  let classes = [];
  let front = null, back = null;
  for (const each of style.split(" ")) {
    if (each.startsWith("fgx-")) front = parsed(each);
    else if (each.startsWith("bgx-")) back = parsed(each);
    else if (each) classes.push(each);
  }
  if (back) {
    classes = classes.filter((each) => !/^fg\d$/.test(each)); // a class of text is readable on the page's own colours only
    classes.push("painted-back");
    element.style.setProperty("--painted-back", css(back));
    front ??= readableExtreme(back);
  }
  if (front) {
    const tinted = classes.some((each) => /^bg\d$/.test(each));
    classes.push("painted");
    element.style.setProperty("--painted-light", css(readable(front, back ?? (tinted ? LIGHT_TINT : LIGHT_BACK))));
    element.style.setProperty("--painted-dark", css(readable(front, back ?? (tinted ? DARK_TINT : DARK_BACK))));
  }
  element.className = classes.join(" ");
  return element;
}

/** The colour, moved towards black or white until it can be read. */
export function readable(front, back) {
  const goal = readableExtreme(back);
  for (let part = 0; part < 1; part += 0.1) {
    const mixed = front.map((each, index) => Math.round(each + (goal[index] - each) * part));
    if (contrast(mixed, back) >= MIN_CONTRAST) return mixed;
  }
  return goal;
}

function readableExtreme(back) {
  return contrast(BLACK, back) > contrast(WHITE, back) ? BLACK : WHITE;
}

/** The contrast of two colours by WCAG, 1 to 21. */
export function contrast(one, other) {
  const [dark, light] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (light + 0.05) / (dark + 0.05);
}

function luminance(rgb) {
  const [red, green, blue] = rgb.map((each) => (each <= 10.31475 ? each / 3294.6 : ((each / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function parsed(token) {
  return [4, 6, 8].map((at) => parseInt(token.slice(at, at + 2), 16));
}

function css(rgb) {
  return `rgb(${rgb.join(" ")})`;
}
