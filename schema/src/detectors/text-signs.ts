const zero = 0x30;
const nine = 0x39;

/** For each pair of neighbouring characters, by bits of both, the number of the text that had it last. */
const pairs = new Uint32Array(1 << 14);
const pairShift = 7;
const pairMask = pairs.length - 1;
const numberMax = 0xffff_ffff;
let textNumber = 0;

/**
 * What a text has, found in one pass over it, so that nobody looks through all of it for each of a hundred things that
 * it does not have.
 */
export class TextSigns {
  readonly #text: string;
  readonly #number: number;
  readonly hasDigit: boolean;

  constructor(text: string) {
    if (textNumber === numberMax) {
      pairs.fill(0);
      textNumber = 0;
    }
    const number = ++textNumber;
    let before = 0;
    let hasDigit = false;
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at);
      hasDigit ||= code >= zero && code <= nine;
      pairs[((before << pairShift) ^ code) & pairMask] = number;
      before = code;
    }
    this.#text = text;
    this.#number = number;
    this.hasDigit = hasDigit;
  }

  /** Whether one of these stands in the text. */
  hasOneOf(signs: readonly string[]): boolean {
    for (const sign of signs) if (this.#mayHave(sign) && this.#text.includes(sign)) return true;
    return false;
  }

  /** A no is sure, a yes is none: other pairs share their bits, and another text may have been passed over since. */
  #mayHave(sign: string): boolean {
    if (this.#number !== textNumber) return true;
    for (let at = 1; at < sign.length; at++) {
      const pair = (sign.charCodeAt(at - 1) << pairShift) ^ sign.charCodeAt(at);
      if (pairs[pair & pairMask] !== this.#number) return false;
    }
    return true;
  }
}
