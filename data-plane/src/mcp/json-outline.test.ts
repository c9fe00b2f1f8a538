import fc from 'fast-check';
import { expect, test } from 'vitest';
import { outlinedStringBytesMin, parseOutline } from './json-outline.ts';

/** Alphabets of long strings: plain, full of escapes, of several bytes, and with what stands alone in no JSON. */
const repeated = fc
  .tuple(
    fc.constantFrom('a', 'log line\n', '"quoted" \\ \u0001', 'é😀', '\u2028', ''),
    fc.integer({ min: 1, max: 9_000 }),
  )
  .map(([unit, length]) => unit.repeat(Math.ceil(length / Math.max(1, unit.length))).slice(0, length));
const { value } = fc.letrec((tie) => ({
  value: fc.oneof(
    { depthSize: 'small', withCrossShrink: true },
    fc.oneof(repeated, fc.string({ unit: 'binary', maxLength: 20 }), fc.double(), fc.boolean(), fc.constant(null)),
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(fc.oneof(fc.string({ maxLength: 6 }), repeated), tie('value'), { maxKeys: 4 }),
  ),
}));

/** Whether one is an outline of the other. */
function outlines(outline: unknown, whole: unknown): boolean {
  if (typeof whole === 'string') {
    // No string of so many bytes has fewer characters.
    return outline === whole || (outline === null && whole.length > outlinedStringBytesMin / 6 - 2);
  }
  if (typeof whole !== 'object' || whole === null) return Object.is(outline, whole);
  if (typeof outline !== 'object' || outline === null || Array.isArray(outline) !== Array.isArray(whole)) return false;
  const [mine, theirs] = [Object.entries(outline), Object.entries(whole)];
  return (
    mine.length === theirs.length &&
    mine.every(([key, member], at) => key === theirs[at]?.[0] && outlines(member, theirs[at][1]))
  );
}

const refused = Symbol('refused');

function parsed(parse: () => unknown): unknown {
  try {
    return parse();
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    return refused;
  }
}

function isOutlined(bytes: Buffer): boolean {
  return outlines(
    parsed(() => parseOutline(bytes)),
    parsed((): unknown => JSON.parse(bytes.toString('utf8'))),
  );
}

/** Memory is read four bytes at a time, so it matters where in it the bytes lie. */
function at(offset: number, bytes: Buffer): Buffer {
  const home = Buffer.alloc(bytes.length + 8);
  bytes.copy(home, offset);
  return home.subarray(offset, offset + bytes.length);
}

test('an outline is the value itself but for long strings, wherever it lies in memory', () => {
  fc.assert(
    fc.property(value, fc.constantFrom(0, 1), fc.nat(7), (json, space, offset) => {
      expect(isOutlined(at(offset, Buffer.from(JSON.stringify({ pad: 'x'.repeat(5_000), json }, null, space))))).toBe(
        true,
      );
    }),
    { numRuns: 300 },
  );
});

test('what the parser refuses is refused, wherever it is broken, and nothing else', () => {
  const byte = fc.oneof(fc.constantFrom(...Buffer.from('"\\{}[]:,u0 \n\t\r'), 0, 0x1f, 0x7f, 0xc3, 0xff), fc.nat(255));
  fc.assert(
    fc.property(
      value,
      fc.double({ min: 0, max: 1, noNaN: true }),
      byte,
      fc.nat(2),
      fc.nat(7),
      (json, where, put, how, offset) => {
        const bytes = Buffer.from(JSON.stringify({ text: 'word '.repeat(1_200), json, last: 'y'.repeat(2_000) }));
        const place = Math.floor(where * bytes.length);
        const broken = Buffer.concat([
          bytes.subarray(0, place),
          how === 0 ? Buffer.alloc(0) : Buffer.from([put]),
          bytes.subarray(how === 2 ? place : place + 1),
        ]);
        expect(isOutlined(at(offset, broken))).toBe(true);
      },
    ),
    { numRuns: 1_000 },
  );
});

test('the text of a long answer is left out, its form is not', () => {
  const answer = {
    jsonrpc: '2.0',
    id: 'x'.repeat(outlinedStringBytesMin - 2),
    result: { isError: true, content: [{ type: 'text', text: 'é\n"'.repeat(100_000) }], [`n${'n'.repeat(2_000)}`]: 1 },
  };
  expect(parseOutline(Buffer.from(JSON.stringify(answer)))).toEqual({
    ...answer,
    result: { ...answer.result, content: [{ type: 'text', text: null }] },
  });
});

test('many short strings are parsed as they are', () => {
  const rows = Array.from({ length: 2_000 }, (_, row) => ({
    row,
    name: `row ${row}`,
    long: 'z'.repeat(row === 1_999 ? 5_000 : 1),
  }));
  expect(parseOutline(Buffer.from(JSON.stringify(rows)))).toEqual(rows);
});
