import { isAscii, withoutHiddenText } from './hidden-text.ts';
import { Readings } from './readings.ts';
import type { TextSigns } from './text-signs.ts';

/**
 * Texts as a reader takes them: hidden characters gone, compatibility forms and look-alike letters folded, lower case.
 * Detectors of meaning look at these, so that one way to write a thing is as good as another.
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
export function foldText(text: string, signs?: TextSigns): string {
  if (signs?.isAscii ?? isAscii(text)) return withoutHiddenText(text, signs).toLowerCase();
  const visible = withoutHiddenText(text, signs).normalize('NFKC');
  const plain = visible
    .normalize('NFD')
    .replace(/(?<=[a-zA-Z])[\u0300-\u036f]+/g, '')
    .normalize('NFC');
  return foldLookAlikes(plain.toLowerCase());
}

const isLetter = 1;
const isSeparator = 2;
/** Of a letter and what sets it apart: their sum, in either order. */
const neighbours = isLetter + isSeparator;
const spacing = new Uint8Array(128).fill(isLetter, 0x61, 0x7b);
for (const separator of ' .-_*|') spacing[separator.charCodeAt(0)] = isSeparator;

function spacingAt(text: string, at: number): number {
  const code = text.charCodeAt(at);
  return code < 128 ? (spacing[code] ?? 0) : 0;
}

/**
 * Whether five letters may stand apart. They are nine characters, every other a separator, and of nine in a row five begin
 * at one of every fourth: so most of a text is not looked at, which the expression tries from each of its letters.
 */
function mayHaveSpacedLetters(text: string): boolean {
  for (let at = 0; at + 4 < text.length; at += 4) {
    let kind = spacingAt(text, at);
    let next = at + 1;
    for (; next <= at + 4; next++) {
      const other = spacingAt(text, next);
      if (kind + other !== neighbours) break;
      kind = other;
    }
    if (next > at + 4) return true;
  }
  return false;
}

/**
 * Folded text with letters put back that were written as digits or set apart, or undefined where nothing was.
 * @param isWord whether a word means anything; names with digits in them do not become others
 */
export function unmaskText(folded: string, isWord: (word: string) => boolean, signs?: TextSigns): string | undefined {
  let result = folded;
  if (mayHaveSpacedLetters(result) && spacedLetters.test(result)) {
    result = result.replace(spacedRuns, (run) =>
      run
        .split(/[ .\-_*|]{2,3}/)
        .map((word) => word.replace(/[^a-z]/g, ''))
        .join(' '),
    );
  }
  spacedLetters.lastIndex = 0;
  if (signs?.hasLetterLike !== false && maskedLetter.test(result))
    result = result.replace(maskedWord, (masked) => {
      const word = Array.from(masked, (c) => digitsForLetters.get(c) ?? c).join('');
      return isWord(word) ? word : masked;
    });
  return result === folded ? undefined : result;
}

const camelCase = /([\p{Ll}\d])(\p{Lu})/gu;
const notWord = /[^\p{L}\p{M}\p{N}]+/gu;
const setApart = /(?<= )(?:[\p{L}\p{N}] ){2,}[\p{L}\p{N}](?= )/gu;
const digitOrSign = /[013457@$!]/g;

/**
 * The words of a name or a short text in every way that a reader may take them, each with a space before, between and
 * behind: `apiKey`, `api_key`, `A P I key` and `ＡＰＩ-кеу` are among others ` api key `. Costs many times what `foldText` does.
 */
export function plainForms(text: string): string[] {
  const forms = new Set<string>();
  for (const written of [text, ...new Readings(text).all.map((reading) => reading.text)]) {
    const visible = withoutHiddenText(written).normalize('NFKC');
    for (const spaced of [visible, visible.replace(camelCase, '$1 $2')]) {
      const folded = foldText(spaced);
      const masked = folded.replace(digitOrSign, (sign) => digitsForLetters.get(sign) ?? sign);
      for (const form of [folded, everyLookAlike(folded), masked]) {
        const plain = ` ${form.replace(notWord, ' ').trim()} `;
        forms.add(plain).add(plain.replace(setApart, (letters) => letters.replaceAll(' ', '')));
      }
    }
  }
  return [...forms];
}

/** Look-alike letters made Latin in words of other scripts too. */
function everyLookAlike(folded: string): string {
  return maybeLookAlike.test(folded)
    ? Array.from(folded, (letter) => lookAlikes.get(letter) ?? letter).join('')
    : folded;
}

const keyLengthMax = 128;
const digitForLetter = /[01]/g;
const betweenDigits = /(?<=\p{N})[^\p{L}\p{N}]+(?=\p{N})/gu;
const separators = /[^\p{L}\p{N}_]+|(?<!\p{N})_+|_+(?!\p{N})/gu;

/**
 * What a name is the same as to who may mistake one for another: case, separators (but between digits), look-alike letters
 * and the digits that look like letters make no difference. Empty for a name without letters and digits.
 */
export function toolKey(name: string): string {
  return everyLookAlike(foldText(name))
    .replace(betweenDigits, '_')
    .replace(separators, '')
    .replace(digitForLetter, (digit) => (digit === '0' ? 'o' : 'l'))
    .slice(0, keyLengthMax);
}
