import type { Permission } from '@sallyport/schema';

/** `public`: no credentials needed. `authenticated`: any actor; where a value needs more, its own type says so. */
export type FieldAccess = Permission | 'public' | 'authenticated';

function connection(name: string, access: FieldAccess): Record<string, FieldAccess> {
  return { [`${name}Connection`]: access, [`${name}Edge`]: access };
}

/**
 * Who may read or call each field of the API: `Type.field`, else `Type` for all fields of an object type. Fields of
 * Query, Mutation and Subscription need their own row. What has no row cannot be served: the process refuses to start.
 */
export const fieldPermissions: Readonly<Record<string, FieldAccess>> = {
  PageInfo: 'authenticated',

  'Query.me': 'authenticated',
  Me: 'authenticated',
  'Mutation.bootstrap': 'public',
  BootstrapPayload: 'public',

  'Query.roles': 'role:read',
  'Query.roleBindings': 'role:read',
  'Mutation.assignRole': 'role:assign',
  'Mutation.removeRole': 'role:assign',
  RoleDescription: 'role:read',
  RoleBinding: 'role:read',
  ...connection('RoleBinding', 'role:read'),

  'Query.grant': 'grant:read',
  'Query.grants': 'grant:read',
  'Mutation.createGrant': 'grant:write',
  'Mutation.updateGrant': 'grant:write',
  'Mutation.endGrant': 'grant:write',
  'Mutation.deleteGrant': 'grant:write',
  Grant: 'grant:read',
  GrantSubject: 'grant:read',
  ...connection('Grant', 'grant:read'),

  'Query.user': 'user:read',
  'Query.users': 'user:read',
  'Mutation.createUser': 'user:write',
  'Mutation.updateUser': 'user:write',
  'Mutation.deleteUser': 'user:write',
  User: 'user:read',
  'User.roles': 'role:read',
  'User.groups': 'group:read',
  ...connection('User', 'user:read'),

  'Query.serviceAccount': 'serviceAccount:read',
  'Query.serviceAccounts': 'serviceAccount:read',
  'Mutation.createServiceAccount': 'serviceAccount:write',
  'Mutation.updateServiceAccount': 'serviceAccount:write',
  'Mutation.deleteServiceAccount': 'serviceAccount:write',
  ServiceAccount: 'serviceAccount:read',
  'ServiceAccount.roles': 'role:read',
  'ServiceAccount.groups': 'group:read',
  ...connection('ServiceAccount', 'serviceAccount:read'),

  'Query.group': 'group:read',
  'Query.groups': 'group:read',
  'Mutation.createGroup': 'group:write',
  'Mutation.updateGroup': 'group:write',
  'Mutation.deleteGroup': 'group:write',
  'Mutation.addGroupMembers': 'group:write',
  'Mutation.removeGroupMembers': 'group:write',
  Group: 'group:read',
  ...connection('Group', 'group:read'),
  Principal: 'authenticated',
  ...connection('Principal', 'group:read'),

  'Query.apiKey': 'apiKey:read',
  'Query.apiKeys': 'apiKey:read',
  'Mutation.createApiKey': 'apiKey:write',
  'Mutation.rotateApiKey': 'apiKey:write',
  'Mutation.revokeApiKey': 'apiKey:write',
  ApiKey: 'apiKey:read',
  IssuedApiKeyPayload: 'apiKey:write',
  ...connection('ApiKey', 'apiKey:read'),

  'Query.node': 'node:read',
  'Query.nodes': 'node:read',
  'Query.configStatus': 'node:read',
  'Query.revocationStatus': 'node:read',
  'Query.joinTokens': 'node:read',
  'Query.sealingKeys': 'settings:read',
  'Mutation.createJoinToken': 'node:write',
  'Mutation.revokeJoinToken': 'node:write',
  'Mutation.removeNode': 'node:write',
  'Mutation.rotateSealingKey': 'settings:write',
  'Subscription.nodeChanged': 'node:read',
  'Subscription.configStatusChanged': 'node:read',
  Node: 'node:read',
  NodeAlarm: 'node:read',
  NodeLoad: 'node:read',
  NodeProblem: 'node:read',
  ...connection('Node', 'node:read'),
  ConfigStatus: 'node:read',
  WithheldObject: 'node:read',
  RevocationStatus: 'node:read',
  NodeConvergence: 'node:read',
  JoinToken: 'node:read',
  IssuedJoinTokenPayload: 'node:write',
  ...connection('JoinToken', 'node:read'),
  // A dry run and a rotation answer with it too; it never holds the key itself.
  SealingKey: 'settings:read',
};
