/**
 * Control-plane permissions and the built-in roles. A role never gives access to a tool; only grants do.
 */
export const permissions = [
  'server:read',
  'server:write',
  // Of servers that a group one belongs to owns; in a role limited to servers, of those.
  'server:writeOwn',
  'server:approve',
  // Of servers: who may set what the gateway proves itself with.
  'credential:read',
  'credential:write',
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
  'policy:read',
  'policy:write',
  'node:read',
  'node:write',
  'audit:read',
  // What captured messages say. Erasing them is a matter of those who may not read them.
  'payload:read',
  'payload:erase',
  'traffic:read',
  'identityProvider:read',
  'identityProvider:write',
  'oauthClient:read',
  'oauthClient:write',
  'settings:read',
  'settings:write',
] as const;
export type Permission = (typeof permissions)[number];

export const roles = ['owner', 'admin', 'editor', 'auditor', 'viewer', 'member'] as const;
export type Role = (typeof roles)[number];

/** What is about one server, and all that a role gives which is limited to some servers. */
export const serverPermissions: readonly Permission[] = [
  'server:read',
  'server:write',
  'server:writeOwn',
  'server:approve',
  'credential:read',
  'credential:write',
];

/** In no custom role: whoever had it could give himself all the rest. */
export const reservedPermissions: readonly Permission[] = ['role:assign'];

/** Given directly and without limits only, and by two people where more than one owner exists. */
export const guardedRoles: readonly Role[] = ['owner', 'auditor'];

/** What only looks: all that an API key for reading has. */
export const readPermissions: readonly Permission[] = permissions.filter((permission) => permission.endsWith(':read'));

export function isPermission(text: string): text is Permission {
  return (permissions as readonly string[]).includes(text);
}

const reading = [
  'server:read',
  'credential:read',
  'group:read',
  'user:read',
  'serviceAccount:read',
  'role:read',
  'grant:read',
  'policy:read',
  'node:read',
  'traffic:read',
  'identityProvider:read',
  'oauthClient:read',
  'settings:read',
] as const satisfies readonly Permission[];

export const rolePermissions: Readonly<Record<Role, readonly Permission[]>> = {
  // Nobody who decides what is captured reads it by that.
  owner: permissions.filter((permission) => permission !== 'payload:read'),
  admin: permissions.filter((permission) => permission !== 'role:assign' && permission !== 'payload:read'),
  editor: [
    'server:read',
    'server:writeOwn',
    'group:read',
    'user:read',
    'serviceAccount:read',
    'grant:read',
    'node:read',
    'traffic:read',
  ],
  auditor: [...reading, 'apiKey:read', 'audit:read', 'payload:read'],
  viewer: reading,
  member: [],
};

/**
 * What makes a guarded role one: what it has beyond the roles it contains that one person may give. A custom role with
 * any of it is guarded too, whatever it is called.
 */
export function guardedPermissionsOf(table: Readonly<Record<Role, readonly Permission[]>>): ReadonlySet<Permission> {
  const free = roles.filter((role) => !guardedRoles.includes(role)).map((role) => table[role]);
  const beyond = (guarded: readonly Permission[]): readonly Permission[] => {
    const contained = free.filter((held) => held.every((one) => guarded.includes(one))).flat();
    return guarded.filter((one) => !contained.includes(one));
  };
  return new Set(guardedRoles.flatMap((role) => beyond(table[role])));
}

export const guardedPermissions = guardedPermissionsOf(rolePermissions);
