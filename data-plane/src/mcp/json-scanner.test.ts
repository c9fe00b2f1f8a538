import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  applyEdits,
  arrayElements,
  insertMember,
  jsonDepthMax,
  jsonNodesMax,
  keepElements,
  memberRange,
  objectMembers,
  parseRange,
  removeMember,
  removeMembers,
  scanJson,
} from './json-scanner.ts';

/** Whether the caller has the text already changes nothing. */
const scan = (text: string | Buffer) => {
  const bytes = Buffer.from(text);
  const result = scanJson(bytes);
  expect(scanJson(bytes, bytes.toString('utf8'))).toEqual(result);
  return result;
};
const problemOf = (text: string | Buffer) => {
  const result = scan(text);
  return result.ok ? 'none' : result.problem;
};

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

describe('the scanner agrees with JSON.parse on what is JSON', () => {
  test('for every JSON value, however it is spaced', () => {
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 8 }), fc.constantFrom(0, 1, 2, '\t'), (value, space) => {
        const text = JSON.stringify(value, null, space);
        expect(problemOf(text)).toBe('none');
      }),
    );
  });

  test('for long strings, with one character of them changed', () => {
    const characters = fc.constantFrom(...Array.from('"\\\n\u0000\u001f\u007f é/u'));
    const unit = fc.constantFrom('a', 'é', '\\n', '\\u00e9', '\\\\', '😀');
    fc.assert(
      fc.property(unit, fc.nat(40), fc.nat(300), characters, fc.nat(400), (repeated, count, pad, character, where) => {
        const text = `{"${'k'.repeat(pad)}":"${repeated.repeat(count)}${'z'.repeat(100)}"}`;
        const at = where % text.length;
        const changed = text.slice(0, at) + character + text.slice(at + 1);
        expect(problemOf(changed) === 'none').toBe(parses(changed));
      }),
      { numRuns: 2000 },
    );
  });

  test('for JSON with one character changed, taken away or put in', () => {
    const characters = fc.constantFrom(...Array.from('{}[],:"\\/0123456789.-+eEtruefalsn \t\n\ru\u0000é'));
    fc.assert(
      fc.property(fc.jsonValue({ maxDepth: 4 }), fc.nat(), characters, fc.nat(2), (value, where, character, how) => {
        const text = JSON.stringify(value);
        const at = where % (text.length + 1);
        const changed = text.slice(0, at) + (how === 0 ? '' : character) + text.slice(how === 2 ? at : at + 1);
        const problem = problemOf(changed);
        // A key that stands twice is refused where it is met, whatever comes after it.
        expect(problem === 'duplicateKey' || (problem === 'none') === parses(changed)).toBe(true);
      }),
      { numRuns: 2000 },
    );
  });

  test.each([
    '',
    ' ',
    '01',
    '-',
    '1.',
    '.5',
    '1e',
    '+1',
    'nul',
    'True',
    '[1,]',
    '{"a":1,}',
    '{a:1}',
    "{'a':1}",
    '"\t"',
    '"\\x"',
    '"\\u12g4"',
    '"abc',
    '[1 2]',
    '1 2',
    '{"a" 1}',
    'NaN',
    '/**/1',
    '\ufeff{}',
    '"\u0000"',
  ])('%j is refused', (text) => {
    expect(parses(text)).toBe(false);
    expect(problemOf(text)).toBe('syntax');
  });
});

describe('the scanner refuses what two parsers may read differently', () => {
  test.each([
    '{"a":1,"a":2}',
    '{"a":1,"\\u0061":2}',
    '{"x":{"é":1,"\\u00e9":2}}',
    '[{"name":"a","b":[],"name":"b"}]',
    '{"__proto__":1,"__proto__":2}',
  ])('the same key twice: %s', (text) => {
    expect(problemOf(text)).toBe('duplicateKey');
  });

  test.each([2, 15, 16, 17, 18, 200])('the same key twice, first and last of %d in an object in an object', (count) => {
    const keys = Array.from({ length: count }, (_, n) => `"k${n}":{"k${n}":${n}}`);
    const text = (members: readonly string[]): string => `{"x":{${members.join(',')}},"k0":1}`;
    expect(problemOf(text(keys))).toBe('none');
    expect(problemOf(text([...keys.slice(0, -1), '"k0":1']))).toBe('duplicateKey');
  });

  test('bytes that are not UTF-8', () => {
    expect(problemOf(Buffer.from([0x22, 0xff, 0x22]))).toBe('notUtf8');
    expect(problemOf(Buffer.from([0x22, 0xed, 0xa0, 0x80, 0x22]))).toBe('notUtf8');
  });

  test('nesting and size beyond the limits, without exhausting the stack', () => {
    const nested = (depth: number) => '['.repeat(depth) + ']'.repeat(depth);
    expect(problemOf(nested(jsonDepthMax))).toBe('none');
    expect(problemOf(nested(jsonDepthMax + 1))).toBe('tooDeep');
    expect(problemOf('['.repeat(100_000))).toBe('tooDeep');
    expect(problemOf('{"a":'.repeat(100_000))).toBe('tooDeep');
    expect(problemOf(`[${'1,'.repeat(jsonNodesMax - 2)}1]`)).toBe('none');
    expect(problemOf(`[${'1,'.repeat(jsonNodesMax)}1]`)).toBe('tooManyNodes');
  });
});

test('the members of the root are found where they stand', () => {
  const bytes = Buffer.from(' {"jsonrpc" : "2.0","é":[1,{"x":"}"}] ,"\\u0069d":12345678901234567890}\n');
  const result = scanJson(bytes);
  if (!result.ok) throw new Error(result.problem);
  const texts = [...result.members].map(([key, { start, end }]) => [key, bytes.toString('utf8', start, end)]);
  expect(texts).toEqual([
    ['jsonrpc', '"2.0"'],
    ['é', '[1,{"x":"}"}]'],
    ['id', '12345678901234567890'],
  ]);
});

test('members and elements are found in any valid value, with their exact bytes', () => {
  fc.assert(
    fc.property(
      fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 3 }), { maxKeys: 6 }),
      fc.array(fc.jsonValue({ maxDepth: 3 }), { maxLength: 6 }),
      fc.constantFrom(0, 2),
      (object, array, space) => {
        const bytes = Buffer.from(JSON.stringify({ object, array }, null, space));
        const result = scanJson(bytes);
        if (!result.ok) throw new Error(result.problem);
        const objectRange = memberRange(bytes, result.root, 'object') ?? result.root;
        const arrayRange = memberRange(bytes, result.root, 'array') ?? result.root;
        const members = objectMembers(bytes, objectRange).map(({ key, value }) => [key, parseRange(bytes, value)]);
        // Null-prototype on both sides: a key may be "__proto__".
        expect(members).toEqual(Object.entries(JSON.parse(JSON.stringify(object)) as object));
        expect((arrayElements(bytes, arrayRange) ?? []).map((range) => parseRange(bytes, range))).toEqual(
          JSON.parse(JSON.stringify(array)),
        );
      },
    ),
  );
});

test('what is kept of a list or an object keeps its bytes', () => {
  const bytes = Buffer.from('{"list": [ {"n":1.0} , {"n":2e0},{ "n":3 } ], "o":{ "a" : 1 ,"b":2 , "c":3.00}}');
  const result = scanJson(bytes);
  if (!result.ok) throw new Error(result.problem);
  const list = memberRange(bytes, result.root, 'list') ?? result.root;
  const object = memberRange(bytes, result.root, 'o') ?? result.root;
  const elements = arrayElements(bytes, list) ?? [];
  const edits = [
    ...keepElements(
      bytes,
      elements,
      elements.filter((_element, index) => index !== 1),
    ),
    ...removeMembers(bytes, object, (key) => key === 'b'),
  ];
  expect(applyEdits(bytes, edits).toString()).toBe('{"list": [ {"n":1.0},{ "n":3 } ], "o":{ "a" : 1,"c":3.00}}');
  const none = [...keepElements(bytes, elements, []), ...removeMembers(bytes, object, () => true)];
  expect(applyEdits(bytes, none).toString()).toBe('{"list": [  ], "o":{ }}');
  expect(applyEdits(bytes, keepElements(bytes, elements, elements))).toBe(bytes);
});

test('an object gets a member before those that it has, also where it holds blanks alone', () => {
  for (const [before, after] of [
    ['{}', '{"new":1}'],
    [`{${' \t\r\n'.repeat(64)}}`, `{"new":1${' \t\r\n'.repeat(64)}}`],
    ['{ "a" : 1}', '{"new":1, "a" : 1}'],
    ['{"a":{}}', '{"new":1,"a":{}}'],
  ] as const) {
    const bytes = Buffer.from(`[${before}]`);
    expect(scanJson(bytes).ok).toBe(true);
    const edited = applyEdits(bytes, [insertMember(bytes, { start: 1, end: bytes.length - 1 }, '"new":1')]);
    expect(edited.toString()).toBe(`[${after}]`);
    expect(scanJson(edited).ok).toBe(true);
  }
});

test('one member goes with its comma alone, wherever it stands, and edits within the others go along', () => {
  for (const text of ['{"a":{},"b" : 1 , "c":[2]}', '{ "b":1, "a":{}}', '{"a":{} ,"b":1}', '{ "b" : 1 }', '{"c":3}']) {
    const bytes = Buffer.from(text);
    const range = { start: 0, end: bytes.length };
    const inner = memberRange(bytes, range, 'a');
    const within = inner === undefined ? [] : [insertMember(bytes, inner, '"x":1')];
    const { b: _b, ...others } = JSON.parse(text) as Record<string, unknown>;
    const expected = inner === undefined ? others : { ...others, a: { x: 1 } };
    const left = applyEdits(bytes, [...within, ...removeMember(bytes, range, 'b')]).toString();
    expect(JSON.parse(left)).toEqual(expected);
  }
});
