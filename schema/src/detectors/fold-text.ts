import { mayHideText, withoutHiddenText } from './hidden-text.ts';

/**
 * Texts as a reader takes them: hidden characters gone, compatibility forms and look-alike letters folded, lower case;
 * and what a text carries in another encoding. Detectors of meaning look at these, so that one way to write a thing is
 * as good as another.
 */

/** Cyrillic and Greek letters that pass for Latin ones, after lower-casing. */
const lookAlikes = new Map(
  Object.entries({
    а: 'a',
    в: 'b',
    с: 'c',
    ԁ: 'd',
    е: 'e',
    ё: 'e',
    ғ: 'f',
    һ: 'h',
    н: 'h',
    і: 'i',
    ї: 'i',
    ј: 'j',
    к: 'k',
    ӏ: 'l',
    м: 'm',
    п: 'n',
    о: 'o',
    р: 'p',
    ԛ: 'q',
    г: 'r',
    ѕ: 's',
    т: 't',
    у: 'y',
    ѵ: 'v',
    ԝ: 'w',
    х: 'x',
    α: 'a',
    β: 'b',
    ϲ: 'c',
    ε: 'e',
    η: 'n',
    ι: 'i',
    κ: 'k',
    ν: 'v',
    ο: 'o',
    ρ: 'p',
    τ: 't',
    υ: 'u',
    χ: 'x',
    γ: 'y',
    ω: 'w',
    ı: 'i',
    ɑ: 'a',
    ɡ: 'g',
    ո: 'n',
    օ: 'o',
    ս: 'u',
    ց: 'g',
    հ: 'h',
    ᴀ: 'a',
    ɪ: 'i',
    ɴ: 'n',
    ʀ: 'r',
    ꜱ: 's',
    ᴇ: 'e',
    ᴛ: 't',
    ᴏ: 'o',
    ᴘ: 'p',
    ᴜ: 'u',
    ᴄ: 'c',
    ᴅ: 'd',
    ɢ: 'g',
    ʜ: 'h',
    ᴋ: 'k',
    ʟ: 'l',
    ᴍ: 'm',
    ᴠ: 'v',
    ᴡ: 'w',
    ʏ: 'y',
    ᴢ: 'z',
    ʙ: 'b',
    ꜰ: 'f',
  }),
);
const mixedWord = /[\p{L}\p{M}]+/gu;
const latin = /[a-z]/;
/** Greek, Cyrillic, Armenian and phonetic letters: where all of the above are. */
const maybeLookAlike = /[\u0131\u0250-\u02af\u0370-\u058f\u1d00-\u1d7f\ua730-\ua7ff]/;
// oxlint-disable-next-line no-control-regex
const notAscii = /[^\u0000-\u007f]/;
const digitsForLetters = new Map(
  Object.entries({ '0': 'o', '1': 'i', '3': 'e', '4': 'a', '5': 's', '7': 't', '@': 'a', $: 's', '!': 'i' }),
);
const maskedWord =
  /(?<![\w@$])(?=[a-z0-9@$!]{0,24}[a-z])(?=[a-z0-9@$!]{0,24}[0-9@$])[a-z0-9@$][a-z0-9@$!]{3,24}(?![\w@$])/g;
const maskedLetter = /[a-z][0-9@$!]|[0-9@$][a-z]/;
const spacedLetters = /(?<![a-z0-9])(?:[a-z][ .\-_*|]){4,}[a-z](?![a-z0-9])/g;
const spacedRuns = /(?<![a-z0-9])[a-z](?:[ .\-_*|]{1,3}[a-z](?![a-z0-9])){7,}/g;

/** Letters that look like Latin ones, in words that have Latin ones too; a word of another script alone stays. */
function foldLookAlikes(text: string): string {
  if (!maybeLookAlike.test(text)) return text;
  return text.replace(mixedWord, (word) => {
    if (!notAscii.test(word) || !(latin.test(word) || isSmallCapitals(word))) return word;
    let folded = '';
    for (const letter of word) folded += lookAlikes.get(letter) ?? letter;
    return folded;
  });
}

function isSmallCapitals(word: string): boolean {
  return /^[\u0250-\u02af\u1d00-\u1d7f\ua730-\ua73f]/u.test(word);
}

/** The text without what is hidden, in compatibility form, lower case, look-alike letters made Latin. */
export function foldText(text: string): string {
  if (!notAscii.test(text)) return (mayHideText(text) ? withoutHiddenText(text) : text).toLowerCase();
  const visible = withoutHiddenText(text).normalize('NFKC');
  const plain = visible
    .normalize('NFD')
    .replace(/(?<=[a-zA-Z])[\u0300-\u036f]+/g, '')
    .normalize('NFC');
  return foldLookAlikes(plain.toLowerCase());
}

/** Folded text with letters put back that were written as digits or set apart, or undefined where nothing was. */
export function unmaskText(folded: string): string | undefined {
  let result = folded;
  if (spacedLetters.test(result)) {
    result = result.replace(spacedRuns, (run) =>
      run
        .split(/[ .\-_*|]{2,3}/)
        .map((word) => word.replace(/[^a-z]/g, ''))
        .join(' '),
    );
  }
  spacedLetters.lastIndex = 0;
  if (maskedLetter.test(result))
    result = result.replace(maskedWord, (word) => Array.from(word, (c) => digitsForLetters.get(c) ?? c).join(''));
  return result === folded ? undefined : result;
}

/** A part of a text that was written in another encoding. */
export interface DecodedPart {
  readonly text: string;
  /** Where the encoded part stands. */
  readonly start: number;
  readonly end: number;
}

/** Base64, URL-safe base64 and hexadecimal: which of them, its alphabet tells. */
const alphanumericRun = /[A-Za-z0-9+/_-]{20,}={0,2}/g;
const hexDigits = /^(?:0x)?(?:[0-9a-fA-F]{2})+$/;
const hexEscapeRun = /(?:\\x[0-9a-fA-F]{2}){6,}/g;
const percentRun = /%[0-9a-fA-F]{2}(?:[\w.~+-]{0,64}%[0-9a-fA-F]{2}){3,}[\w.~+-]{0,64}/g;
const entityRun =
  /&(?:#\d{2,6}|#x[0-9a-fA-F]{2,5}|lt|gt|quot|amp|nbsp);(?:[^&\n]{0,40}&(?:#\d{2,6}|#x[0-9a-fA-F]{2,5}|lt|gt|quot|amp|nbsp);){2,}[^&\n]{0,40}/g;
const escapeRun = /(?:\\u[0-9a-fA-F]{4}){6,}/g;
const decodedPartsMax = 64;
const printable = /^[\p{L}\p{M}\p{N}\p{P}\p{S}\s]*$/u;
const entities = new Map(Object.entries({ lt: '<', gt: '>', quot: '"', amp: '&', nbsp: ' ' }));

function asText(bytes: Buffer): string | undefined {
  const text = bytes.toString('utf8');
  // Words need letters; anything in base64 decodes to something.
  if (text.includes('\ufffd') || text.length < 8 || !printable.test(text)) return undefined;
  const letters = text.match(/[\p{L}\s]/gu)?.length ?? 0;
  return letters >= text.length * 0.6 ? text : undefined;
}

function fromEntities(run: string): string {
  return run.replace(
    /&(?:#x([0-9a-fA-F]{2,5})|#(\d{2,6})|([a-z]{2,5}));/g,
    (all, hex: string, decimal: string, name: string) => {
      if (name !== undefined) return entities.get(name) ?? all;
      const point = hex === undefined ? Number(decimal) : Number.parseInt(hex, 16);
      return point <= 0x10ffff && !(point >= 0xd800 && point <= 0xdfff) ? String.fromCodePoint(point) : all;
    },
  );
}

/** What must be there for the expression to be worth running, the expression, and what its match says. */
const encodings: readonly (readonly [string, RegExp, (run: string) => string | undefined])[] = [
  [
    '',
    alphanumericRun,
    (run) => asText(hexDigits.test(run) ? Buffer.from(run.replace(/^0x/, ''), 'hex') : Buffer.from(run, 'base64')),
  ],
  ['\\x', hexEscapeRun, (run) => asText(Buffer.from(run.replaceAll('\\x', ''), 'hex'))],
  [
    '%',
    percentRun,
    (run) =>
      asText(
        Buffer.from(
          run.replace(/%([0-9a-fA-F]{2})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
          'latin1',
        ),
      ),
  ],
  ['&', entityRun, fromEntities],
  [
    '\\u',
    escapeRun,
    (run) => run.replace(/\\u([0-9a-fA-F]{4})/g, (_, hex: string) => String.fromCharCode(Number.parseInt(hex, 16))),
  ],
];

/** What stands in a text in base64, hexadecimal, percent-encoding, character references or escapes; bounded. */
export function decodedParts(text: string): DecodedPart[] {
  const parts: DecodedPart[] = [];
  for (const [sign, pattern, decode] of encodings) {
    if (!text.includes(sign)) continue;
    pattern.lastIndex = 0;
    for (let match = pattern.exec(text); match !== null; match = pattern.exec(text)) {
      if (parts.length >= decodedPartsMax) return parts;
      const decoded = decode(match[0]);
      if (decoded !== undefined) parts.push({ text: decoded, start: match.index, end: match.index + match[0].length });
    }
  }
  return parts;
}
