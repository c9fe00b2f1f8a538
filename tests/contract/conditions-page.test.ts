import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import {
  compileCondition,
  conditionArguments,
  conditionArgumentsLengthMax,
  conditionArgumentsMax,
  type ConditionKind,
  conditionLengthMax,
  conditionProblem,
} from '@sallyport/schema';
import { describe, expect, test } from 'vitest';
import { repositoryRoot } from './generated-files.ts';

const page = readFileSync(join(repositoryRoot(), 'docs/reference/conditions.md'), 'utf8');

const facts = {
  principal: { id: 'p1', kind: 'user', groups: ['eng-core'] },
  server: { slug: 'jira', labels: { stage: 'test' } },
  client: { name: 'claude', version: '1.0', address: '10.1.2.3' },
  now: new Date('2026-11-23T09:30:00Z'),
};

/** The rows of the tables under a heading, without their heads. */
function rowsUnder(heading: string): string[][] {
  const section = page.split(/^## /m).find((text) => text.startsWith(`${heading}\n`)) ?? '';
  const lines = section.split('\n');
  return lines
    .filter((line, at) => line.startsWith('|') && !line.startsWith('|---') && !(lines[at + 1] ?? '').startsWith('|---'))
    .map((line) => line.split(/(?<!\\)\|/).slice(1, -1))
    .map((cells) => cells.map((cell) => cell.trim().replaceAll(String.raw`\|`, '|')));
}

function code(cell: string | undefined): string {
  const [, text] = /^`(.*)`$/.exec(cell ?? '') ?? [];
  return text ?? '';
}

const examples = [...page.matchAll(/```cel (when|whenArguments)\n([^]*?)\n```/g)].map(
  ([, kind = '', text = '']): [ConditionKind, string] => [kind === 'when' ? 'when' : 'whenArguments', text],
);
const outcomes = rowsUnder('True, false and unknown').filter((cells) => cells[0]?.startsWith('`'));
const functions = rowsUnder('Functions').map((cells) => code(cells.at(-1)));
const refused = rowsUnder('What is refused').map((cells) => code(cells[0]));

describe('the page about conditions', () => {
  test('has examples of everything', () => {
    const counts = [examples, outcomes, functions, refused].map((list) => list.length);
    for (const count of counts) expect(count).toBeGreaterThan(5);
  });

  test.each(examples)('shows %s that can be written: %s', (kind, text) => {
    expect(conditionProblem(kind, text)).toBeUndefined();
  });

  test.each(functions)('shows functions that there are: %s', (text) => {
    expect(conditionProblem('whenArguments', text)).toBeUndefined();
  });

  test.each(refused)('shows what is refused: %s', (text) => {
    expect(conditionProblem('when', text)?.message).toEqual(expect.any(String));
  });

  test.each(outcomes)('tells what %s over %s comes to: %s', (condition, given, outcome) => {
    const text = code(given);
    const call = {
      target: { kind: 'tool', name: 'pay' },
      arguments: conditionArguments(text) ?? {},
      argumentsLength: text.length,
    };
    const match = compileCondition('whenArguments', code(condition)).evaluate(facts, call);
    expect(match).toBe(({ true: 'yes', false: 'no' } as Record<string, string>)[outcome ?? ''] ?? 'unknown');
  });

  test('names the limits that hold', () => {
    const limits = rowsUnder('Limits').flat().join(' ');
    for (const limit of [conditionLengthMax, conditionArgumentsLengthMax, conditionArgumentsMax]) {
      expect(limits).toContain(limit.toLocaleString('en-US'));
    }
  });
});
