/** For each pair of neighbouring characters, by bits of both, the number of the text that had it last. */
const pairs = new Uint32Array(1 << 14);
const pairShift = 7;
const pairMask = pairs.length - 1;
const numberMax = 0xffff_ffff;
let textNumber = 0;

/** What a character of ASCII is, as bits. */
const digit = 1;
/** Passes for a letter, as digits do. */
const letterLike = 2;
const upperCase = 4;
/** Neither seen nor white space. */
const control = 8;
const notAscii = 16;
const lowerCaseBit = 0x20;
const kinds = new Uint8Array(128);
kinds.fill(digit, 0x30, 0x3a);
kinds.fill(upperCase, 0x41, 0x5b);
kinds.fill(control, 0, 0x20);
kinds[0x7f] = control;
for (const white of '\t\n\r') kinds[white.charCodeAt(0)] = 0;
for (const sign of '@$!') kinds[sign.charCodeAt(0)] = letterLike;

/** What was found in a pass over a text. */
interface Pass {
  readonly number: number;
  readonly kinds: number;
}

/** Notes the pairs of the text as it stands and in lower case. */
function passOver(text: string): Pass {
  if (textNumber === numberMax) {
    pairs.fill(0);
    textNumber = 0;
  }
  const number = ++textNumber;
  let before = 0;
  let lowerBefore = 0;
  let found = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    const kind = code < 128 ? (kinds[code] ?? 0) : notAscii;
    found |= kind;
    const lower = kind === upperCase ? code | lowerCaseBit : code;
    pairs[((before << pairShift) ^ code) & pairMask] = number;
    if (lower !== code || lowerBefore !== before) pairs[((lowerBefore << pairShift) ^ lower) & pairMask] = number;
    before = code;
    lowerBefore = lower;
  }
  return { number, kinds: found };
}

/**
 * What a text has, found in one pass over it, so that nobody looks through all of it for each of a hundred things that
 * it does not have.
 */
export class TextSigns {
  readonly #text: string;
  readonly #pass: Pass;
  #lower: string | undefined;

  private constructor(text: string, pass: Pass) {
    this.#text = text;
    this.#pass = pass;
  }

  static of(text: string): TextSigns {
    return new TextSigns(text, passOver(text));
  }

  /** Those of the text in lower case, without another pass; only of one that `isAscii`. */
  inLowerCase(lower: string): TextSigns {
    return new TextSigns(lower, this.#pass);
  }

  get hasDigit(): boolean {
    return (this.#pass.kinds & digit) !== 0;
  }

  /** Whether it has a digit or one of `@$!`. */
  get hasLetterLike(): boolean {
    return (this.#pass.kinds & (digit | letterLike)) !== 0;
  }

  get isAscii(): boolean {
    return (this.#pass.kinds & notAscii) === 0;
  }

  /** Whether it has a character of ASCII that is neither seen nor white space. */
  get hasControl(): boolean {
    return (this.#pass.kinds & control) !== 0;
  }

  /** Whether one of these stands in the text. */
  hasOneOf(signs: readonly string[]): boolean {
    for (const sign of signs) if (this.#mayHave(sign) && this.#text.includes(sign)) return true;
    return false;
  }

  /** Whether one of these, given in lower case, stands in the text in whichever case. */
  hasOneOfInAnyCase(signs: readonly string[]): boolean {
    return signs.some((sign) => this.#mayHave(sign) && (this.#lower ??= this.#text.toLowerCase()).includes(sign));
  }

  /** Whether one of these may stand in the text in whichever case; they are to be given in lower case. A no is sure. */
  mayHaveOneOf(signs: readonly string[]): boolean {
    return signs.some((sign) => this.#mayHave(sign));
  }

  /** A no is sure, a yes is none: other pairs share their bits, and another text may have been passed over since. */
  #mayHave(sign: string): boolean {
    const { number } = this.#pass;
    if (number !== textNumber) return true;
    for (let at = 1; at < sign.length; at++) {
      const pair = (sign.charCodeAt(at - 1) << pairShift) ^ sign.charCodeAt(at);
      if (pairs[pair & pairMask] !== number) return false;
    }
    return true;
  }
}
