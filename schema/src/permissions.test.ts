import { expect, test } from 'vitest';
import { guardedPermissions, guardedPermissionsOf, rolePermissions } from './permissions.ts';

test('guarded is what owner and auditor have beyond the roles within them that one person gives', () => {
  expect([...guardedPermissions].sort()).toEqual(['apiKey:read', 'audit:read', 'payload:read', 'role:assign']);
});

test('what is given to auditors alone one day is guarded without being named', () => {
  const table = { ...rolePermissions, auditor: [...rolePermissions.auditor, 'node:write' as const] };
  expect(guardedPermissionsOf(table).has('node:write')).toBe(true);
});
