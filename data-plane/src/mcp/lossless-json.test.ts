import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { parseLossless, parseUpstreamMessage } from './lossless-json.ts';

describe('parsing without loss', () => {
  test.each([
    '{"id":12345678901234567890}',
    '[-9007199254740993,1e400,0.12345678901234567890123]',
    '{"a":{"b":[123456789012345678]}}',
  ])('gives %s back as it was', (text) => {
    expect(JSON.stringify(parseLossless(text))).toBe(text);
  });

  test('leaves what a double holds a number', () => {
    expect(parseLossless('{"a":1.0,"b":0.5,"c":1e2,"d":9007199254740991}')).toEqual({
      a: 1,
      b: 0.5,
      c: 100,
      d: 9007199254740991,
    });
  });

  test('reads every value as JSON.parse does where nothing is lost', () => {
    fc.assert(
      fc.property(fc.json(), (text) => {
        expect(JSON.parse(JSON.stringify(parseLossless(text)))).toEqual(JSON.parse(text));
      }),
    );
  });

  test.each(['', '[]', '5', 'nonsense', '{"a":'])('refuses %j as a message', (text) => {
    expect(() => parseUpstreamMessage(text)).toThrow(/JSON/);
  });
});
