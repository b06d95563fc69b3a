// What commands write, as a terminal would show it: colours and weights, carriage returns and backspaces. Every other
// sequence is dropped, and nothing ever becomes markup.

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
  }

  /** Takes the next bytes of a stream, which may end within a character or a sequence. */
  write(bytes, stream = "stdout") {
    this._decoders[stream] ??= new TextDecoder("utf-8");
    this.writeText(this._decoders[stream].decode(bytes, { stream: true }), stream === "stderr" ? "err" : "");
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
    this.lines.splice(0, count);
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

/** Applies the parameters of a Select Graphic Rendition sequence to a set of class names. */
function styled(style, parameters) {
  const classes = new Set(style.split(" ").filter(Boolean));
  const drop = (prefix) => classes.forEach((each) => each.startsWith(prefix) && classes.delete(each));
  const codes = parameters.split(/[;:]/).map((each) => parseInt(each || "0", 10));
  for (let at = 0; at < codes.length; at++) {
    const code = codes[at];
    if (code === 0) classes.clear();
    else if (code === 1) classes.add("bold");
    else if (code === 2) classes.add("dim");
    else if (code === 3) classes.add("italic");
    else if (code === 4) classes.add("underline");
    else if (code === 22) { classes.delete("bold"); classes.delete("dim"); }
    else if (code === 23) classes.delete("italic");
    else if (code === 24) classes.delete("underline");
    else if (code === 39) drop("fg");
    else if (code === 49) drop("bg");
    else if (code === 38 || code === 48) { at += codes[at + 1] === 5 ? 2 : codes[at + 1] === 2 ? 4 : 0; }
    else if ((code >= 30 && code <= 37) || (code >= 90 && code <= 97)) { drop("fg"); classes.add(`fg${code % 10}`); }
    else if ((code >= 40 && code <= 47) || (code >= 100 && code <= 107)) { drop("bg"); classes.add(`bg${code % 10}`); }
  }
  return [...classes].join(" ");
}
