/** Strings of JSON texts, in bytes: where they end, four bytes at a time, since long answers are long texts. */

const quote = 0x22;
const backslash = 0x5c;
const space = 0x20;
const zero = 0x30;
const nine = 0x39;

/** Whether one of four bytes ends what a string may hold as it is: a quote, a backslash or a control character. */
function isSpecialWord(word: number): boolean {
  const quotes = word ^ 0x22222222;
  const backslashes = word ^ 0x5c5c5c5c;
  const found =
    ((word - 0x20202020) & ~word) | ((quotes - 0x01010101) & ~quotes) | ((backslashes - 0x01010101) & ~backslashes);
  return (found & 0x80808080) !== 0;
}

function isSpecial(byte: number): boolean {
  return byte < space || byte === quote || byte === backslash;
}

const noWords = new Int32Array(0);

/** The bytes of a JSON text, for whoever skips its strings. */
export class JsonStrings {
  readonly #bytes: Buffer;
  /** Bytes before the first whole word of memory. */
  readonly #before: number;
  readonly #words: Int32Array;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
    this.#before = -bytes.byteOffset & 3;
    const words = (bytes.length - this.#before) >> 2;
    this.#words = words > 0 ? new Int32Array(bytes.buffer, bytes.byteOffset + this.#before, words) : noWords;
  }

  /**
   * The place of the quote that ends a string (RFC 8259 §7), -1 where there is none or where the string holds what none
   * may: a control character, an escape that is none. Bytes above 127 are not looked at.
   * @param from behind its first quote, or behind a part of it that was looked at
   */
  end(from: number): number {
    const bytes = this.#bytes;
    for (let at = this.#plainEnd(from); at < bytes.length; at = this.#plainEnd(at)) {
      const byte = bytes[at];
      if (byte === quote) return at;
      if (byte !== backslash) return -1;
      at = behindEscape(bytes, at + 1);
      if (at < 0) return -1;
    }
    return -1;
  }

  #plainEnd(from: number): number {
    const bytes = this.#bytes;
    const words = this.#words;
    const before = this.#before;
    let at = from;
    for (; at < bytes.length && (at < before || ((at - before) & 3) !== 0); at++) {
      if (isSpecial(bytes[at] ?? 0)) return at;
    }
    if (at >= bytes.length) return at;
    let word = (at - before) >> 2;
    while (word < words.length && !isSpecialWord(words[word] ?? 0)) word++;
    at = before + word * 4;
    while (at < bytes.length && !isSpecial(bytes[at] ?? 0)) at++;
    return at;
  }
}

/** The place behind the escape whose letter is at `at`; -1 where it is none. */
export function behindEscape(bytes: Buffer, at: number): number {
  switch (bytes[at]) {
    case quote:
    case backslash:
    case 0x2f:
    case 0x62:
    case 0x66:
    case 0x6e:
    case 0x72:
    case 0x74:
      return at + 1;
    case 0x75:
      for (let digit = 1; digit <= 4; digit++) if (!isHex(bytes[at + digit])) return -1;
      return at + 5;
    default:
      return -1;
  }
}

function isHex(byte: number | undefined): boolean {
  if (byte === undefined) return false;
  const lower = byte | 0x20;
  return (byte >= zero && byte <= nine) || (lower >= 0x61 && lower <= 0x66);
}
