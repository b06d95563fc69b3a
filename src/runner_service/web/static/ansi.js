// What commands write, as a terminal would show it: colours and weights, carriage returns and backspaces. Every other
// sequence is dropped, and nothing ever becomes markup.

import { indexedColour, trueColour } from "./colours.js";

export const MAX_SCREEN_CHARACTERS = 256 * 1024;
const MAX_COLUMNS = 2000;
const MAX_SEQUENCE = 4096;
const TAB = 8;

/** Shows what would be invisible, or change the direction of text, by its name. */
export function visible(text) {
  return String(text ?? "").replace(
    /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu,
    (character) => {
      const code = character.codePointAt(0);
      return code < 32 ? String.fromCharCode(0x2400 + code) : `\\u{${code.toString(16)}}`;
    },
  );
}

/** The last lines that a command has written. A line is a list of runs `{text, style}`. */
export class Screen {
  constructor() {
    this.lines = [];
    this.droppedCharacters = 0;
    this.version = 0;
    this._cells = []; // of the last line
    this._styles = [];
    this._column = 0;
    this._style = "";
    this._sequence = ""; // one that has begun
    this._size = 0;
    this._decoders = {};
    this._read = { stdout: 0, stderr: 0 };
    this._ends = []; // of each line, how many bytes of both streams were read by then
    /** How many bytes of each stream came before the first line. */
    this.before = { stdout: 0, stderr: 0 };
  }

  /** Takes the next bytes of a stream, which may end within a character or a sequence. */
  write(bytes, stream = "stdout") {
    this._decoders[stream] ??= new TextDecoder("utf-8");
    const base = stream === "stderr" ? "err" : "";
    for (let from = 0; from < bytes.length;) { // by lines, so that it is known where each begins
      const at = bytes.indexOf(10, from), end = at < 0 ? bytes.length : at + 1;
      this._read[stream] += end - from;
      this.writeText(this._decoders[stream].decode(bytes.subarray(from, end), { stream: true }), base);
      from = end;
    }
  }

  writeText(text, base = "") {
    this.version++;
    for (const character of text) {
      if (this._sequence) this._continueSequence(character);
      else if (character === "\n") this._newLine();
      else if (character === "\r") this._column = 0;
      else if (character === "\b") this._column = Math.max(0, this._column - 1);
      else if (character === "\t") this._put(" ".repeat(TAB - (this._column % TAB)), base);
      else if (character === "\u001b" || character === "\u009b") this._sequence = character === "\u001b" ? character : "\u001b[";
      else if (character !== "\u0007") this._put(visible(character), base);
    }
  }

  /** All lines, the unfinished last one too. */
  all() {
    return this._cells.length ? [...this.lines, this._runs()] : this.lines;
  }

  get lineCount() {
    return this.lines.length + (this._cells.length ? 1 : 0);
  }

  line(index) {
    return index < this.lines.length ? this.lines[index] : this._runs();
  }

  _put(text, base) {
    for (const character of text) {
      if (this._column >= MAX_COLUMNS) this._newLine();
      while (this._cells.length < this._column) { this._cells.push(" "); this._styles.push(""); }
      this._cells[this._column] = character;
      this._styles[this._column++] = base ? `${base} ${this._style}` : this._style;
    }
  }

  _newLine() {
    const runs = this._runs();
    this.lines.push(runs);
    this._ends.push(this._read.stdout, this._read.stderr);
    this._size += this._cells.length + 1;
    this._cells = [];
    this._styles = [];
    this._column = 0;
    if (this._size > MAX_SCREEN_CHARACTERS * 1.25) this._dropOldest();
  }

  _dropOldest() {
    let count = 0;
    while (this._size > MAX_SCREEN_CHARACTERS && count < this.lines.length - 1) {
      const size = this.lines[count++].reduce((sum, run) => sum + run.text.length, 1);
      this._size -= size;
      this.droppedCharacters += size;
    }
    if (count) this.before = { stdout: this._ends[count * 2 - 2], stderr: this._ends[count * 2 - 1] };
    this.lines.splice(0, count);
    this._ends.splice(0, count * 2);
  }

  _runs() {
    const runs = [];
    this._cells.forEach((character, index) => {
      const style = this._styles[index], last = runs[runs.length - 1];
      if (last && last.style === style) last.text += character;
      else runs.push({ text: character, style });
    });
    return runs;
  }

  _continueSequence(character) {
    const sequence = (this._sequence += character), kind = sequence[1];
    if (sequence.length > MAX_SEQUENCE) this._sequence = "";
    else if (kind === "[") {
      if (sequence.length > 2 && character >= "@" && character <= "~") this._end(sequence);
    } else if (kind === "]" || kind === "P" || kind === "_" || kind === "^" || kind === "X") {
      if (character === "\u0007" || character === "\u009c" || sequence.endsWith("\u001b\\")) this._sequence = "";
    } else if (!(kind >= " " && kind <= "/" && sequence.length < 3)) this._sequence = "";
  }

  _end(sequence) {
    this._sequence = "";
    if (sequence.endsWith("m")) this._style = styled(this._style, sequence.slice(2, -1));
    else if (/^\u001b\[0?K$/.test(sequence)) { this._cells.length = Math.min(this._cells.length, this._column); this._styles.length = this._cells.length; }
    else if (sequence === "\u001b[2K") { this._cells = []; this._styles = []; }
  }
}

const ON = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse" };
const OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"] };

/** Applies the parameters of a Select Graphic Rendition sequence to a set of class names. */
function styled(style, parameters) {
  const classes = new Set(style.split(" ").filter(Boolean));
  const set = (kind, name) => {
    classes.forEach((each) => each.startsWith(kind) && classes.delete(each));
    if (name) classes.add(name);
  };
  const groups = parameters.split(";").map((group) => group.split(":"));
  for (let at = 0; at < groups.length; at++) {
    const group = groups[at], code = number(group[0]);
    if (code === 0) classes.clear();
    else if (code === 4 && group[1] === "0") classes.delete("underline");
    else if (ON[code]) classes.add(ON[code]);
    else if (OFF[code]) OFF[code].forEach((each) => classes.delete(each));
    else if (code === 38 || code === 48) at += extended(code === 38 ? "fg" : "bg", group, groups.slice(at + 1, at + 5), set);
    else if (code === 39 || code === 49) set(code === 39 ? "fg" : "bg", "");
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) set("fg", `fg${code % 10}`);
    else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) set("bg", `bg${code % 10}`);
  }
  return [...classes].join(" ");
}

/** Sets a colour of 256 (`5;n`) or of 24 bits (`2;r;g;b`), also with colons; returns how many more groups it took. */
function extended(kind, group, following, set) {
  const hasColons = group.length > 1, values = (hasColons ? group.slice(1) : following.map(([first]) => first)).map(number);
  if (values[0] === 5) {
    set(kind, indexedColour(kind, values[1]));
    return hasColons ? 0 : 2;
  }
  if (values[0] === 2) {
    // With colons a colour space, mostly empty, may come first.
    set(kind, trueColour(kind, hasColons && values.length > 4 ? values.slice(2, 5) : values.slice(1, 4)));
    return hasColons ? 0 : 4;
  }
  return 0;
}

function number(text) {
  return parseInt(text || "0", 10);
}
