import { describe, expect, test } from 'vitest';
import { canonicalJson } from './canonical-json.ts';
import { definitionDigest } from './definition-digest.ts';
import {
  defaultLimits,
  documentSchema,
  encodeDocument,
  manifestHash,
  principalShard,
  principalShardCount,
} from './snapshot.ts';

describe('configuration documents', () => {
  test('a field or kind that is not known is refused', () => {
    expect(documentSchema.safeParse(defaultLimits).success).toBe(true);
    expect(documentSchema.safeParse({ ...defaultLimits, surprise: 1 }).success).toBe(false);
    expect(documentSchema.safeParse({ kind: 'policy' }).success).toBe(false);
  });
  test('equal content has an equal hash whatever the order of its members', () => {
    const reordered = Object.fromEntries(Object.entries(defaultLimits).toReversed()) as typeof defaultLimits;
    expect(encodeDocument(reordered)).toEqual(encodeDocument(defaultLimits));
    expect(manifestHash({ a: '1', b: '2' })).toBe(manifestHash({ b: '2', a: '1' }));
  });
  test('every principal falls into one of the shards', () => {
    for (let n = 0; n < 1_000; n++) {
      const shard = principalShard(`principal-${n}`);
      expect(Number.isInteger(shard) && shard >= 0 && shard < principalShardCount).toBe(true);
    }
  });
});

describe('canonical JSON', () => {
  test('follows RFC 8785: sorted by code unit, ECMAScript numbers, no white space', () => {
    expect(canonicalJson({ b: [1.0, 1e21, -0], a: { '\u20ac': 1, $: '\n' } })).toBe(
      '{"a":{"$":"\\n","\u20ac":1},"b":[1,1e+21,0]}',
    );
  });
  test('the digest of a definition ignores member order and sees every unknown field', () => {
    const tool = { name: 'a', inputSchema: { type: 'object' } };
    expect(definitionDigest({ inputSchema: { type: 'object' }, name: 'a' })).toBe(definitionDigest(tool));
    expect(definitionDigest({ ...tool, vendor: true })).not.toBe(definitionDigest(tool));
  });
});
