import { expect, test } from 'vitest';
import { z } from 'zod';
import { readSourceTree, type SourceFile, type SyntaxNode } from '../tidy/source-tree.ts';
import { citedIn, isRequirement, notRequired, requirements } from './requirements.ts';

const pitfalls = 74;
const literal = z.looseObject({ type: z.literal('Literal'), value: z.string() });
const template = z.looseObject({
  type: z.literal('TemplateLiteral'),
  quasis: z.array(z.looseObject({ value: z.looseObject({ raw: z.string() }) })),
});

/** What a test or group of tests is called; undefined where the call is neither. */
function titleOf(node: SyntaxNode, file: SourceFile): string | undefined {
  if (node.type !== 'CallExpression') return undefined;
  const [first] = z.array(z.unknown()).parse(node['arguments']);
  const callee = z.looseObject({ start: z.number(), end: z.number() }).parse(node['callee']);
  if (!/^(?:test|describe)\b/.test(file.text.slice(callee.start, callee.end))) return undefined;
  const text = literal.safeParse(first);
  if (text.success) return text.data.value;
  const parts = template.safeParse(first);
  return parts.success ? parts.data.quasis.map(({ value }) => value.raw).join('…') : undefined;
}

/** Citations by id, each with where it stands. */
const cited = new Map<string, string[]>();
const tests = readSourceTree().files.filter(({ name }) => name.endsWith('.test.ts'));
for (const file of tests) {
  file.walk((node) => {
    for (const id of citedIn(titleOf(node, file) ?? '')) {
      cited.set(id, [...(cited.get(id) ?? []), `${file.path}:${file.lineOf(node.start)}`]);
    }
  });
}

test('every requirement is cited by a test', () => {
  expect(Object.keys(requirements).filter((id) => !cited.has(id))).toEqual([]);
});

test('every citation is of a requirement', () => {
  expect([...cited].filter(([id]) => !isRequirement(id))).toEqual([]);
});

test('every pitfall is required, or said to be none of ours', () => {
  const ids = Array.from({ length: pitfalls }, (_, at) => `P${String(at + 1).padStart(2, '0')}`);
  expect([...Object.keys(requirements), ...Object.keys(notRequired)].sort((a, b) => a.localeCompare(b))).toEqual(ids);
});
