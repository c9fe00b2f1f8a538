/**
 * Control-plane permissions and the built-in roles. A role never gives access to a tool; only grants do.
 */
export const permissions = [
  'server:read',
  'server:write',
  'server:approve',
  'group:read',
  'group:write',
  'user:read',
  'user:write',
  'serviceAccount:read',
  'serviceAccount:write',
  'apiKey:read',
  'apiKey:write',
  'role:read',
  'role:assign',
  'grant:read',
  'grant:write',
  'node:read',
  'node:write',
  'audit:read',
  'traffic:read',
  'settings:read',
  'settings:write',
] as const;
export type Permission = (typeof permissions)[number];

export const roles = ['owner', 'admin', 'editor', 'auditor', 'viewer', 'member'] as const;
export type Role = (typeof roles)[number];

const reading = [
  'server:read',
  'group:read',
  'user:read',
  'serviceAccount:read',
  'role:read',
  'grant:read',
  'node:read',
  'traffic:read',
  'settings:read',
] as const satisfies readonly Permission[];

export const rolePermissions: Readonly<Record<Role, readonly Permission[]>> = {
  owner: permissions,
  admin: permissions.filter((permission) => permission !== 'role:assign'),
  editor: [
    'server:read',
    'server:write',
    'group:read',
    'user:read',
    'serviceAccount:read',
    'grant:read',
    'node:read',
    'traffic:read',
  ],
  auditor: [...reading, 'apiKey:read', 'audit:read'],
  viewer: reading,
  member: [],
};

/** Every permission the roles give together. */
export function permissionsOf(held: Iterable<Role>): ReadonlySet<Permission> {
  const result = new Set<Permission>();
  for (const role of held) for (const permission of rolePermissions[role]) result.add(permission);
  return result;
}
