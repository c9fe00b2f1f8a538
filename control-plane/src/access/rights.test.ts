import { readFileSync, writeFileSync } from 'node:fs';
import { type Permission, permissions, rolePermissions, roles, serverPermissions } from '@sallyport/schema';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  isPermitted,
  isPermittedSomewhere,
  missingRight,
  noRights,
  restrictRights,
  type Rights,
  serverScope,
} from './rights.ts';

const goldenFile = new URL('role-permissions.golden.txt', import.meta.url);
const payments = { team: 'payments' };

/** How far a permission reaches in the hands of somebody with the role: everywhere, own servers, not at all. */
function reach(rights: Rights, permission: Permission): string {
  if (isPermitted(rights, permission)) return 'all';
  const own = { labels: {}, ownerGroupId: 'g' };
  if (isPermitted({ ...rights, groupIds: new Set(['g']) }, permission, own)) return 'own';
  if (isPermitted(rights, permission, { labels: payments, ownerGroupId: null })) return 'labelled';
  return '-';
}

function matrix(): string {
  const columns = roles.flatMap((role) => {
    const held = new Set(rolePermissions[role]);
    const limitedTo = new Set([...held].filter((permission) => serverPermissions.includes(permission)));
    const limited = { ...noRights, limited: [{ selector: payments, permissions: limitedTo }] };
    return [
      { name: role, rights: { ...noRights, permissions: held } },
      { name: `${role}*`, rights: limited },
    ];
  });
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, index) => cell.padEnd(index === 0 ? 22 : 10))
      .join('')
      .trimEnd();
  return [
    '# What each role permits: all, own servers, labelled servers, or nothing. A role with * is limited to labels.',
    line(['permission', ...columns.map(({ name }) => name)]),
    ...permissions.map((permission) => line([permission, ...columns.map(({ rights }) => reach(rights, permission))])),
    '',
  ].join('\n');
}

test('every role permits what the golden matrix says', () => {
  const text = matrix();
  if (process.env['UPDATE_GOLDEN'] === '1') writeFileSync(goldenFile, text);
  expect(text).toBe(readFileSync(goldenFile, 'utf8'));
});

const permissionSet = fc.uniqueArray(fc.constantFrom(...permissions)).map((list) => new Set(list));
const serverSet = fc.uniqueArray(fc.constantFrom(...serverPermissions)).map((list) => new Set(list));
const labels = fc.dictionary(fc.constantFrom('team', 'tier'), fc.constantFrom('a', 'b'), { minKeys: 1 });
const groupId = fc.constantFrom('g1', 'g2', 'g3');
const rightsOf: fc.Arbitrary<Rights> = fc.record({
  permissions: permissionSet,
  limited: fc.array(fc.record({ selector: labels, permissions: serverSet }), { maxLength: 3 }),
  groupIds: fc.uniqueArray(groupId).map((list) => new Set(list)),
});
const server = fc.record({
  labels: fc.dictionary(fc.constantFrom('team', 'tier'), fc.constantFrom('a', 'b')),
  ownerGroupId: fc.option(groupId),
});

test('whoever lacks no right of another may do all that the other may', () => {
  fc.assert(
    fc.property(rightsOf, rightsOf, server, fc.constantFrom(...permissions), (mine, theirs, one, permission) => {
      fc.pre(missingRight(mine, theirs) === undefined);
      const follows = [undefined, one].map(
        (on) => !isPermitted(theirs, permission, on) || isPermitted(mine, permission, on),
      );
      expect(follows).toEqual([true, true]);
    }),
    { numRuns: 300 },
  );
});

test('restricted rights permit nothing that the whole do not, nor what is not named', () => {
  fc.assert(
    fc.property(
      rightsOf,
      permissionSet,
      server,
      fc.constantFrom(...permissions),
      (rights, allowed, one, permission) => {
        const restricted = restrictRights(rights, allowed);
        const isWithin = !isPermitted(restricted, permission, one) || isPermitted(rights, permission, one);
        const mayWriteOwn = permission === 'server:write' && allowed.has('server:writeOwn');
        const isNamed = allowed.has(permission) || (permission === 'server:writeOwn' && allowed.has('server:write'));
        const mayBe = isNamed || mayWriteOwn || !isPermittedSomewhere(restricted, permission);
        expect({ isWithin, mayBe }).toEqual({ isWithin: true, mayBe: true });
      },
    ),
    { numRuns: 1000 },
  );
});

test('a list holds exactly the servers that each by itself may be seen or written', () => {
  fc.assert(
    fc.property(rightsOf, server, fc.constantFrom(...serverPermissions), (rights, one, permission) => {
      fc.pre(permission !== 'server:writeOwn');
      const scope = serverScope(rights, permission);
      const isListed =
        scope === 'all' ||
        scope.selectors.some((selector) =>
          Object.entries(selector).every(([key, value]) => one.labels[key] === value),
        ) ||
        (one.ownerGroupId !== null && scope.ownerGroupIds.includes(one.ownerGroupId));
      expect(isListed).toBe(isPermitted(rights, permission, one));
      expect(!isListed || isPermittedSomewhere(rights, permission)).toBe(true);
    }),
    { numRuns: 1000 },
  );
});

test('a role limited to servers gives nothing that is not about servers', () => {
  const limited = { ...noRights, limited: [{ selector: payments, permissions: new Set(permissions) }] };
  for (const permission of permissions.filter((one) => !serverPermissions.includes(one))) {
    expect(isPermitted(limited, permission, { labels: payments, ownerGroupId: null })).toBe(false);
  }
});
