import { describe, expect, test } from 'vitest';
import { paramHeaders } from './param-headers.ts';

const schema = (property: object) => ({ type: 'object', properties: { value: property } });

describe('the headers that a schema asks for', () => {
  test('are found through properties, by path', () => {
    const input = {
      type: 'object',
      properties: {
        region: { type: 'string', 'x-mcp-header': 'Region' },
        nested: { type: 'object', properties: { dry: { type: 'boolean', 'x-mcp-header': 'Dry-Run' } } },
        properties: { type: 'string', default: { 'x-mcp-header': 'not a schema' } },
      },
    };
    expect(paramHeaders(input)).toEqual([
      { name: 'Region', path: ['region'], type: 'string' },
      { name: 'Dry-Run', path: ['nested', 'dry'], type: 'boolean' },
    ]);
  });

  test.each([undefined, true, {}, schema({ type: 'number' })])('are none where %j asks for none', (input) => {
    expect(paramHeaders(input)).toEqual([]);
  });

  test.each([
    ['a name that is empty', schema({ type: 'string', 'x-mcp-header': '' })],
    ['a name that is no token', schema({ type: 'string', 'x-mcp-header': 'a b' })],
    ['a name that is no text', schema({ type: 'string', 'x-mcp-header': 5 })],
    ['a number, which has many forms', schema({ type: 'number', 'x-mcp-header': 'N' })],
    ['an object', schema({ type: 'object', 'x-mcp-header': 'O' })],
    ['an item of an array', schema({ type: 'array', items: { type: 'string', 'x-mcp-header': 'I' } })],
    ['an alternative', { anyOf: [schema({ type: 'string', 'x-mcp-header': 'A' })] }],
    ['the whole', { type: 'string', 'x-mcp-header': 'W' }],
    [
      'one name for two values',
      { properties: { a: { type: 'string', 'x-mcp-header': 'A' }, b: { type: 'string', 'x-mcp-header': 'a' } } },
    ],
  ])('make a tool unfit to be offered: %s [P08]', (_what, input) => {
    expect(paramHeaders(input)).toBeUndefined();
  });
});
