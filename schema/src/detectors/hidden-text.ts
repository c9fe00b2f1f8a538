import type { Finding, FindingSeverity } from './finding.ts';
import type { TextSigns } from './text-signs.ts';

/**
 * Characters that a person does not see and a model reads: Unicode tags, zero-width characters, bidirectional
 * controls, runs of variation selectors, fillers, control characters and terminal escapes. What a script or an emoji
 * needs of them is left alone: joiners in emoji and in the scripts that use them, the three flags made of tags, one
 * variation selector after a character that takes it, direction marks beside right-to-left letters.
 */

// Everything that could be hidden; a text without any of it (nearly all) is done after one pass of this.
const suspect =
  // oxlint-disable-next-line no-control-regex, no-misleading-character-class
  /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\u{1d173}-\u{1d17a}\u{e0000}-\u{e0fff}]/u;
/** The same among ASCII characters. */
// oxlint-disable-next-line no-control-regex
const asciiSuspect = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/;
const suspects = new RegExp(suspect.source, 'gu');

/** CSI, OSC (to BEL or ST), and two-character escapes, in 7 and 8 bit (ECMA-48). */
const terminalEscape =
  // oxlint-disable-next-line no-control-regex
  /(?:\u001b\[|\u009b)[0-?]{0,64}[ -/]{0,8}[@-~]|(?:\u001b\]|\u009d)[^\u0007\u001b\u009c]{0,4096}(?:\u0007|\u001b\\|\u009c)?|\u001b[ -~]?/y;

const joinedScripts =
  /[\p{Script=Arabic}\p{Script=Syriac}\p{Script=Nko}\p{Script=Thaana}\p{Script=Mongolian}\p{Script=Devanagari}\p{Script=Bengali}\p{Script=Gurmukhi}\p{Script=Gujarati}\p{Script=Oriya}\p{Script=Tamil}\p{Script=Telugu}\p{Script=Kannada}\p{Script=Malayalam}\p{Script=Sinhala}\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}\p{Script=Hebrew}]/u;
/** Scripts written without spaces, which mark where a line may break. */
const unspacedScripts =
  /[\p{Script=Thai}\p{Script=Lao}\p{Script=Khmer}\p{Script=Myanmar}\p{Script=Tibetan}\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}]/u;
const rightToLeft = /[\p{Script=Arabic}\p{Script=Hebrew}\p{Script=Syriac}\p{Script=Thaana}\p{Script=Nko}]/u;
const pictographic = /[\p{Extended_Pictographic}\p{Emoji_Modifier}\u{1f1e6}-\u{1f1ff}]/u;
const takesSelector =
  /[\p{Emoji}\p{S}\p{Script=Han}\p{Script=Mongolian}\p{Script=Myanmar}\p{Script=Hiragana}\p{Script=Katakana}\p{P}]/u;
/** The emoji tag sequences that Unicode recommends: England, Scotland, Wales. */
const tagFlags = new Set(['gbeng', 'gbsct', 'gbwls']);
const rightToLeftNearCharacters = 64;

function before(text: string, at: number): string {
  if (at <= 0) return '';
  const low = text.charCodeAt(at - 1);
  return low >= 0xdc00 && low <= 0xdfff && at > 1 ? text.slice(at - 2, at) : text.slice(at - 1, at);
}

function after(text: string, at: number): string {
  const point = text.codePointAt(at);
  return point === undefined ? '' : String.fromCodePoint(point);
}

/** The character before, past a variation selector. */
function baseBefore(text: string, at: number): string {
  const previous = before(text, at);
  return previous === '\ufe0f' || previous === '\ufe0e' ? before(text, at - 1) : previous;
}

function isTag(point: number | undefined): boolean {
  return point !== undefined && point >= 0xe0000 && point <= 0xe007f;
}

function isSelector(point: number | undefined): boolean {
  return point !== undefined && ((point >= 0xfe00 && point <= 0xfe0f) || (point >= 0xe0100 && point <= 0xe01ef));
}

/** End of a run of code points of one kind. */
function endOfRun(text: string, from: number, belongs: (point: number | undefined) => boolean): number {
  let at = from;
  for (;;) {
    const point = text.codePointAt(at);
    if (!belongs(point)) return at;
    at += (point ?? 0) > 0xffff ? 2 : 1;
  }
}

function tagsOf(run: string): string {
  return Array.from(run, (tag) => String.fromCharCode((tag.codePointAt(0) ?? 0) & 0x7f)).join('');
}

interface Hidden {
  readonly category: (typeof hiddenTextCategories)[number];
  readonly severity: FindingSeverity;
  readonly end: number;
}

/** What is hidden at a place where a suspect character stands; `end` alone where it is as it should be. */
function hiddenAt(text: string, at: number): Hidden | number {
  const point = text.codePointAt(at) ?? 0;
  const next = at + (point > 0xffff ? 2 : 1);
  if (isTag(point)) {
    const end = endOfRun(text, at, isTag);
    const tags = tagsOf(text.slice(at, end));
    const isFlag = before(text, at) === '\u{1f3f4}' && tags.endsWith('\u007f') && tagFlags.has(tags.slice(0, -1));
    return isFlag ? end : { category: 'unicodeTags', severity: 'critical', end };
  }
  if (isSelector(point)) {
    const end = endOfRun(text, at, isSelector);
    const base = before(text, at);
    const isOne = end === next && base !== '' && takesSelector.test(base);
    const keycap = /[0-9#*]/.test(base) ? after(text, end) === '\u20e3' || point === 0xfe0e || point === 0xfe0f : true;
    return isOne && keycap
      ? end
      : { category: 'variationSelectors', severity: end - at > 2 ? 'critical' : 'medium', end };
  }
  if (point === 0x1b || point === 0x9b || point === 0x9d) {
    terminalEscape.lastIndex = at;
    const match = terminalEscape.exec(text);
    return { category: 'terminalEscape', severity: 'high', end: at + Math.max(1, match?.[0].length ?? 1) };
  }
  if (point < 0x20 || (point >= 0x7f && point <= 0x9f))
    return { category: 'controlCharacter', severity: 'medium', end: next };
  if (point === 0x200d || point === 0x200c) return joinerAt(text, at, point, next);
  if (isBidirectional(point)) return directionAt(text, at, point, next);
  if (point === 0xfeff && at === 0) return next;
  if (point === 0x200b) {
    const fits = unspacedScripts.test(before(text, at)) || unspacedScripts.test(after(text, next));
    return fits ? next : { category: 'zeroWidth', severity: 'high', end: next };
  }
  // A soft hyphen inside a word is how text is set; elsewhere it is not.
  if (point === 0xad && /\p{L}/u.test(before(text, at)) && /\p{L}/u.test(after(text, next))) {
    return { category: 'softHyphen', severity: 'low', end: next };
  }
  if (point === 0x2800) return /[\u2801-\u28ff]/.test(before(text, at) + after(text, next)) ? next : invisible(next);
  if (point >= 0x180b && point <= 0x180f && /\p{Script=Mongolian}/u.test(before(text, at))) return next;
  if ((point === 0x17b4 || point === 0x17b5) && /\p{Script=Khmer}/u.test(before(text, at))) return next;
  if ((point === 0x115f || point === 0x1160) && /[\u1100-\u11ff]/.test(before(text, at) + after(text, next)))
    return next;
  return invisible(next);
}

function invisible(end: number): Hidden {
  return { category: 'invisible', severity: 'high', end };
}

function joinerAt(text: string, at: number, point: number, next: number): Hidden | number {
  const previous = baseBefore(text, at);
  const following = after(text, next);
  if (joinedScripts.test(previous)) return next;
  if (
    point === 0x200d &&
    pictographic.test(previous) &&
    /[\p{Extended_Pictographic}\u2640\u2642\u2695-\u2696\u2708]/u.test(following)
  ) {
    return next;
  }
  return { category: 'zeroWidth', severity: 'high', end: next };
}

function isBidirectional(point: number): boolean {
  return (
    point === 0x61c ||
    point === 0x200e ||
    point === 0x200f ||
    (point >= 0x202a && point <= 0x202e) ||
    (point >= 0x2066 && point <= 0x2069)
  );
}

/** Marks, embeddings and isolates belong to right-to-left text; an override shows letters in another order anywhere. */
function directionAt(text: string, at: number, point: number, next: number): Hidden | number {
  const isOverride = point === 0x202d || point === 0x202e;
  const near = text.slice(Math.max(0, at - rightToLeftNearCharacters), next + rightToLeftNearCharacters);
  if (!isOverride && rightToLeft.test(near)) return next;
  return { category: 'bidirectional', severity: isOverride ? 'critical' : 'high', end: next };
}

/** Whether all characters are ASCII: asked of the runtime, which sees many at once. */
export function isAscii(text: string): boolean {
  return Buffer.byteLength(text) === text.length;
}

/**
 * Whether a text has any character worth a look.
 * @param signs of the text, where there are some: they tell of one in ASCII
 */
export function mayHideText(text: string, signs?: TextSigns): boolean {
  if (signs?.isAscii ?? isAscii(text)) return signs?.hasControl ?? asciiSuspect.test(text);
  return suspect.test(text);
}

/** Neighbours of one category are one finding. */
export function findHiddenText(text: string, signs?: TextSigns): Finding[] {
  if (!mayHideText(text, signs)) return [];
  const findings: Finding[] = [];
  suspects.lastIndex = 0;
  for (let match = suspects.exec(text); match !== null; match = suspects.exec(text)) {
    const hidden = hiddenAt(text, match.index);
    const end = typeof hidden === 'number' ? hidden : hidden.end;
    suspects.lastIndex = end;
    if (typeof hidden === 'number') continue;
    const last = findings.at(-1);
    if (last?.end === match.index && last.category === hidden.category) {
      findings[findings.length - 1] = { ...last, end };
    } else {
      findings.push({
        detector: 'hiddenText',
        category: hidden.category,
        severity: hidden.severity,
        start: match.index,
        end,
      });
    }
  }
  return findings;
}

/** The text as a person sees it. */
export function withoutHiddenText(text: string, signs?: TextSigns): string {
  const findings = findHiddenText(text, signs);
  if (findings.length === 0) return text;
  let result = '';
  let at = 0;
  for (const { start, end } of findings) {
    result += text.slice(at, start);
    at = end;
  }
  return result + text.slice(at);
}

/** What the hidden characters say where they spell something: tags as ASCII, selectors as the bytes they stand for. */
export function hiddenMessage(text: string, signs?: TextSigns): string {
  let message = '';
  for (const { category, start, end } of findHiddenText(text, signs)) {
    if (category === 'unicodeTags') message += tagsOf(text.slice(start, end));
    if (category === 'variationSelectors') message += bytesOfSelectors(text.slice(start, end));
  }
  return message;
}

/** The common way to write a byte as a variation selector: 0-15 as U+FE00.., 16-255 as U+E0100... */
function bytesOfSelectors(run: string): string {
  const bytes = Array.from(run, (selector) => {
    const point = selector.codePointAt(0) ?? 0;
    return point < 0xe0100 ? point - 0xfe00 : point - 0xe0100 + 16;
  });
  return new TextDecoder().decode(Uint8Array.from(bytes));
}

/** Hidden characters spelled out, for a person who reviews: `⟦U+200B⟧`. */
export function revealHiddenText(text: string): string {
  let result = '';
  let at = 0;
  for (const { start, end } of findHiddenText(text)) {
    const spelled = Array.from(
      text.slice(start, end),
      (c) => `U+${(c.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, '0')}`,
    );
    result += `${text.slice(at, start)}⟦${spelled.join(' ')}⟧`;
    at = end;
  }
  return result + text.slice(at);
}

export const hiddenTextCategories = [
  'unicodeTags',
  'variationSelectors',
  'terminalEscape',
  'controlCharacter',
  'zeroWidth',
  'softHyphen',
  'invisible',
  'bidirectional',
] as const;
