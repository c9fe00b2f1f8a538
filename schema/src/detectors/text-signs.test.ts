import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodedRuns } from './readings.ts';
import { TextSigns } from './text-signs.ts';

const text = fc.string({
  unit: fc.constantFrom('a', 'b', 'B', '0', '_', '-', ' ', '=', 'é', '𐀀', '\u2028'),
  maxLength: 60,
});

test('a text has the signs that stand in it and no others, whatever was looked at since', () => {
  fc.assert(
    fc.property(
      text,
      fc.array(fc.string({ unit: 'grapheme', minLength: 1, maxLength: 4 })),
      text,
      (one, signs, other) => {
        const found = new TextSigns(one);
        const own = [
          ...signs,
          ...Array.from({ length: 10 }, (_, n) => one.slice(n, n + 3)).filter((sign) => sign !== ''),
        ];
        const expected = own.map((sign) => one.includes(sign));
        expect(own.map((sign) => found.hasOneOf([sign]))).toEqual(expected);
        expect(found.hasOneOf(own)).toBe(expected.some(Boolean));
        expect(found.hasDigit).toBe(/\d/.test(one));
        new TextSigns(other).hasOneOf(own);
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
