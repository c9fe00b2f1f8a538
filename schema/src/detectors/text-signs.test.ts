import fc from 'fast-check';
import { expect, test } from 'vitest';
import { unmaskText } from './fold-text.ts';
import { address, credentialPath, phrases, privateContext, sensitivePair } from './instruction-lexicon.ts';
import { encodedRuns } from './readings.ts';
import { isSigned, secretKinds } from './secrets.ts';
import { TextSigns } from './text-signs.ts';

const text = fc.string({
  unit: fc.constantFrom('a', 'b', 'B', 'C', '0', '_', '-', ' ', '=', '@', '\u0001', 'é', '𐀀', '\u2028'),
  maxLength: 60,
});

test('a text has the signs that stand in it and no others, whatever was looked at since', () => {
  fc.assert(
    fc.property(
      text,
      fc.array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 4 })),
      text,
      (one, signs, other) => {
        const found = TextSigns.of(one);
        const own = [
          ...signs,
          ...Array.from({ length: 10 }, (_, n) => one.slice(n, n + 3)).filter((sign) => sign !== ''),
        ];
        const expected = own.map((sign) => one.includes(sign));
        expect(own.map((sign) => found.hasOneOf([sign]))).toEqual(expected);
        expect(found.hasOneOf(own)).toBe(expected.some(Boolean));
        expect(found.hasDigit).toBe(/\d/.test(one));
        expect(found.isAscii).toBe(!/[^\0-\x7f]/.test(one));
        expect(found.hasLetterLike).toBe(/[\d@$!]/.test(one));
        const lower = one.toLowerCase();
        const ofLower = (found.isAscii ? found : TextSigns.of(lower)).inLowerCase(lower);
        const lowerSigns = own.map((sign) => sign.toLowerCase());
        const inLower = lowerSigns.filter((sign) => lower.includes(sign));
        expect(lowerSigns.filter((sign) => ofLower.hasOneOf([sign]))).toEqual(inLower);
        expect(inLower.filter((sign) => ofLower.mayHaveOneOf([sign]))).toEqual(inLower);
        TextSigns.of(other).hasOneOf(own);
        expect(own.map((sign) => found.hasOneOf([sign]))).toEqual(expected);
      },
    ),
  );
});

test('what may be encoded is found where an expression finds it', () => {
  const letters = fc.constantFrom('A', 'z', '0', '+', '/', '_', '-');
  const run = fc.array(letters, { maxLength: 40 }).map((characters) => characters.join(''));
  const between = fc.constantFrom('', ' ', '=', '==', '===', '.', 'é', '\n', '𐀀');
  fc.assert(
    fc.property(fc.array(fc.tuple(run, between), { maxLength: 12 }), (parts) => {
      const whole = parts.flat().join('');
      const expected = [...whole.matchAll(/[A-Za-z0-9+/_-]{16,}={0,2}/g)].map((match) => ({
        start: match.index,
        end: match.index + match[0].length,
      }));
      expect(encodedRuns(whole)).toEqual(expected);
    }),
    { numRuns: 2_000 },
  );
});

test('letters that are set apart are put together wherever they stand', () => {
  const around = fc.string({ unit: fc.constantFrom('a', 'bc', ' ', '.', '1', 'é', '\n'), maxLength: 12 });
  const separator = fc.constantFrom(...Array.from(' .-_*|'));
  fc.assert(
    fc.property(around, separator, around, (before, between, after) => {
      const apart = Array.from('ignoreall').join(between);
      expect(unmaskText(`${before}! ${apart} !${after}`, () => false)).toContain('ignoreall');
    }),
    { numRuns: 1_000 },
  );
});

/** Without what only looks around, which finds more and never less. */
function withoutAssertions({ source }: RegExp): RegExp {
  const plain = source
    .replace('(?:^|\\n)', '\\n')
    .replace(/\(\?<?[!=](?:[^()[]|\[(?:[^\]\\]|\\.)*\]|\((?:[^()])*\))*\)/g, '')
    .replaceAll('\\b', '');
  return new RegExp(plain);
}

const named = { address, credentialPath, privateContext, sensitivePair };
const shapes = [...phrases.map((phrase) => [phrase.name, phrase] as const), ...Object.entries(named)];

test.each(shapes)('whatever is found as %s has the signs by which it is looked for', (_name, { pattern, signs }) => {
  // Each alternative by itself, so that each comes about often.
  for (const alternative of alternativesOf(withoutAssertions(pattern).source)) {
    fc.assert(
      fc.property(fc.stringMatching(new RegExp(`^(?:${alternative})$`)), (found) => {
        const has = TextSigns.of(found);
        for (const list of signs) expect([found, has.hasOneOf(list)]).toEqual([found, true]);
      }),
      { numRuns: 120 },
    );
  }
});

/** As people write headers, variables and codes. */
const spelled = fc.oneof(
  fc.constantFrom(
    (text: string) => text,
    (text: string) => text.toLowerCase(),
    (text: string) => text.toUpperCase(),
    (text: string) => text.toLowerCase().replace(/[a-z]+/g, (word) => word.charAt(0).toUpperCase() + word.slice(1)),
  ),
  fc.func(fc.boolean()).map((isUpper) => (text: string) => {
    const lower = text.toLowerCase();
    return Array.from(lower, (letter, at) => (isUpper(at, letter) ? letter.toUpperCase() : letter)).join('');
  }),
);

test.each(secretKinds.map((kind, at) => [`${kind.category} (${at})`, kind] as const))(
  'whatever is found as %s has the signs by which it is looked for, in whichever case it may be written',
  (_name, kind) => {
    // So many repetitions are enough.
    const source = withoutAssertions(kind.pattern).source.replace(
      /\{(\d+),(\d+)\}/g,
      (_all, least: string, most: string) => `{${least},${Math.min(Number(most), Number(least) + 2)}}`,
    );
    for (const alternative of alternativesOf(source)) {
      const written = fc.stringMatching(new RegExp(`^(?:${alternative})$`));
      fc.assert(
        fc.property(written, spelled, (text, spell) => {
          const found = kind.pattern.ignoreCase ? spell(text) : text;
          expect([found, isSigned(kind, TextSigns.of(found))]).toEqual([found, true]);
        }),
        { numRuns: 200 },
      );
    }
  },
);

/** The parts of an expression between the bars that stand in no group. */
function alternativesOf(source: string): string[] {
  const parts = [''];
  let depth = 0;
  for (const [token] of source.matchAll(/\\.|\[(?:[^\]\\]|\\.)*\]|[^]/g)) {
    if (token === '(') depth += 1;
    else if (token === ')') depth -= 1;
    if (token === '|' && depth === 0) parts.push('');
    else parts.push((parts.pop() ?? '') + token);
  }
  return parts;
}
