import { describe, expect, test } from 'vitest';
import { findHiddenText, hiddenMessage, revealHiddenText, withoutHiddenText } from './hidden-text.ts';

const tags = (text: string): string =>
  Array.from(text, (c) => String.fromCodePoint(0xe0000 + c.charCodeAt(0))).join('');

describe('what scripts and emoji need is left alone', () => {
  test.each([
    ['plain text with tabs and lines', 'a\tb\r\nc'],
    ['a family of emoji', '\u{1f469}\u200d\u{1f469}\u200d\u{1f467}'],
    ['a technologist with a skin tone', '\u{1f468}\u{1f3fd}\u200d\u{1f4bb}'],
    ['the flag of Scotland', `\u{1f3f4}${tags('gbsct')}\u{e007f}`],
    ['the rainbow and transgender flags', '\u{1f3f3}\ufe0f\u200d\u{1f308} \u{1f3f3}\ufe0f\u200d\u26a7\ufe0f'],
    ['hearts, keycaps and signs', '\u2764\ufe0f \u263a\ufe0e \u00a9\ufe0f 1\ufe0f\u20e3 #\ufe0f\u20e3'],
    ['Persian with joiners', '\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645'],
    ['Hindi with joiners', '\u0915\u094d\u200d\u0937'],
    [
      'Hebrew and Arabic with marks and isolates',
      '\u05e9\u05dc\u05d5\u05dd\u200f! \u0645\u0631\u062d\u0628\u0627 \u2067abc\u2069',
    ],
    ['Thai with break marks', '\u0e2a\u0e27\u0e31\u0e2a\u200b\u0e14\u0e35'],
    ['an ideograph with its variant', '\u845b\u{e0100}'],
    ['a byte order mark in front', '\ufeffabc'],
  ])('%s', (_name, text) => {
    expect(findHiddenText(text)).toEqual([]);
    expect(withoutHiddenText(text)).toBe(text);
  });
});

describe('what is hidden is found and taken out', () => {
  test.each([
    ['a zero-width space', 'a\u200bb', 'zeroWidth', 'ab'],
    ['a joiner between Latin letters', 'ig\u200dnore', 'zeroWidth', 'ignore'],
    ['letters made of tags', `x${tags('hide')}`, 'unicodeTags', 'x'],
    ['a flag that is none', `\u{1f3f4}${tags('evil')}\u{e007f}`, 'unicodeTags', '\u{1f3f4}'],
    ['an override of direction', 'a\u202eb', 'bidirectional', 'ab'],
    ['an isolate in Latin text', 'a\u2066b', 'bidirectional', 'ab'],
    ['bytes in variation selectors', 'A\ufe01\ufe02\u{e0110}', 'variationSelectors', 'A'],
    ['a selector after a letter', 'abc\ufe0f', 'variationSelectors', 'abc'],
    ['a coloured text', '\u001b[31mred\u001b[0m', 'terminalEscape', 'red'],
    ['a terminal link', '\u001b]8;;http://x\u0007link', 'terminalEscape', 'link'],
    ['NUL', 'a\u0000b', 'controlCharacter', 'ab'],
    ['a filler', 'a\u3164b', 'invisible', 'ab'],
    ['a word joiner', 'a\u2060b', 'invisible', 'ab'],
  ])('%s', (_name, text, category, visible) => {
    expect(findHiddenText(text).map((finding) => finding.category)).toContain(category);
    expect(withoutHiddenText(text)).toBe(visible);
  });

  test('a run of one kind is one finding, at its place', () => {
    expect(findHiddenText('ab\u200b\u200b\u200bcd')).toEqual([
      { detector: 'hiddenText', category: 'zeroWidth', severity: 'high', start: 2, end: 5 },
    ]);
  });
});

test('what tags and selectors spell is told, and a reviewer sees them', () => {
  expect(hiddenMessage(`x${tags('send it')}`)).toBe('send it');
  expect(
    hiddenMessage(`x${Array.from('hi', (c) => String.fromCodePoint(0xe0100 + c.charCodeAt(0) - 16)).join('')}`),
  ).toBe('hi');
  expect(revealHiddenText('a\u200bb')).toBe('a⟦U+200B⟧b');
});
