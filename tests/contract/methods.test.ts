import { allMethodRules, type ProtocolRevision, protocolRevisions } from '@sallyport/schema';
import { describe, expect, test } from 'vitest';
import { clientMethodsOfSpecification } from './specification-schemas.ts';

/** Methods of extensions, which the schemas of the core specification do not have. */
const extensionMethods: Readonly<Partial<Record<ProtocolRevision, readonly string[]>>> = {
  '2026-07-28': ['tasks/cancel', 'tasks/get', 'tasks/update'],
};

const specification = clientMethodsOfSpecification();
// The suite does not carry the schema of 2024-11-05, whose methods were all kept in the revision after it.
const oldest = specification.get('2025-03-26');

test('the specification of every supported revision is compared', () => {
  expect([...specification.keys(), '2024-11-05'].sort()).toEqual([...protocolRevisions].sort());
});

describe.each(protocolRevisions)('in %s', (revision) => {
  const table = allMethodRules().filter((entry) => entry.revision === revision);
  const inTable = (message: 'request' | 'notification') =>
    table
      .filter(({ rule }) => rule.message === message)
      .map((entry) => entry.method)
      .filter((method) => !(extensionMethods[revision] ?? []).includes(method))
      .sort();

  test('the permission table has exactly the requests a client may send', () => {
    expect(inTable('request')).toEqual((specification.get(revision) ?? oldest)?.requests);
  });

  test('the permission table has exactly the notifications a client may send', () => {
    expect(inTable('notification')).toEqual((specification.get(revision) ?? oldest)?.notifications);
  });

  test('methods of extensions need their extension', () => {
    for (const method of extensionMethods[revision] ?? []) {
      expect(table.find((entry) => entry.method === method)?.rule.permission).toBe('task');
    }
  });
});
