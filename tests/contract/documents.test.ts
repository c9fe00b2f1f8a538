import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { buildSchema, parse, validate } from 'graphql';
import { describe, expect, test } from 'vitest';
import { repositoryRoot } from './generated-files.ts';

const root = repositoryRoot();
const pages = ['', 'docs', 'docs/decisions', 'docs/guides', 'docs/reference'].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((name) => name.endsWith('.md'))
    .map((name) => join(root, folder, name)),
);

describe.each(pages.map((page) => [relative(root, page), readFileSync(page, 'utf8')]))('%s', (name, text) => {
  test('every link to a file of the repository leads somewhere', () => {
    const targets = [...text.matchAll(/\]\((?!https?:|#)([^)#\s]+)/g)].map(([, target = '']) => target);
    expect(targets.filter((target) => !existsSync(join(root, dirname(name), target)))).toEqual([]);
  });

  test('every GraphQL example is valid against the published schema', () => {
    const schema = buildSchema(readFileSync(join(root, 'schema/generated/schema.graphql'), 'utf8'));
    const examples = [...text.matchAll(/```graphql\n([^]*?)```/g)].map(([, example = '']) => example);
    expect(examples.flatMap((example) => validate(schema, parse(example))).map(({ message }) => message)).toEqual([]);
  });
});
