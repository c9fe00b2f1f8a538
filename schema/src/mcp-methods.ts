/**
 * Every method a client may send in every supported protocol revision, and the permission it needs.
 * A method that is not listed for a revision is refused as unknown. Source: the method tables of the specification's
 * schemas, which tests/contract holds this table against.
 */
export const modernRevisions = ['2026-07-28'] as const;
export const legacyRevisions = ['2025-11-25', '2025-06-18', '2025-03-26', '2024-11-05'] as const;
/** Newest first. */
export const protocolRevisions = [...modernRevisions, ...legacyRevisions] as const;
export type ProtocolRevision = (typeof protocolRevisions)[number];
export type Era = 'modern' | 'legacy';

export function eraOf(revision: ProtocolRevision): Era {
  return (modernRevisions as readonly string[]).includes(revision) ? 'modern' : 'legacy';
}

export function isProtocolRevision(value: unknown): value is ProtocolRevision {
  return typeof value === 'string' && (protocolRevisions as readonly string[]).includes(value);
}

/**
 * What a method needs:
 * - `server`: some grant on the server (the caller may know that it exists);
 * - `tool`, `prompt`: a grant for `params.name`; `resource`: for `params.uri`;
 * - `completion`: for the prompt or resource template of `params.ref`;
 * - `listen`: `server`, a grant for every URI in `params.notifications.resourceSubscriptions`, and `task` for every id in
 *   `taskIds`;
 * - `task`: the tasks extension, and a grant for the tool whose call made the task `params.taskId`;
 * - `refused`: known, but not carried by this release; answered as unknown, and its capability is not advertised.
 */
export type MethodPermission = 'server' | 'tool' | 'prompt' | 'resource' | 'completion' | 'listen' | 'task' | 'refused';

export interface MethodRule {
  readonly message: 'request' | 'notification';
  readonly permission: MethodPermission;
  /** The member of `result` that is an array of definitions to filter, for list methods. */
  readonly list?: {
    readonly member: 'tools' | 'prompts' | 'resources' | 'resourceTemplates';
    readonly target: 'tool' | 'prompt' | 'resource';
  };
}

const request = (permission: MethodPermission): MethodRule => ({ message: 'request', permission });
const notification = (permission: MethodPermission): MethodRule => ({ message: 'notification', permission });

const both = {
  'tools/list': { message: 'request', permission: 'server', list: { member: 'tools', target: 'tool' } },
  'tools/call': request('tool'),
  'prompts/list': { message: 'request', permission: 'server', list: { member: 'prompts', target: 'prompt' } },
  'prompts/get': request('prompt'),
  'resources/list': { message: 'request', permission: 'server', list: { member: 'resources', target: 'resource' } },
  'resources/templates/list': {
    message: 'request',
    permission: 'server',
    list: { member: 'resourceTemplates', target: 'resource' },
  },
  'resources/read': request('resource'),
  'completion/complete': request('completion'),
  'notifications/cancelled': notification('server'),
} as const satisfies Record<string, MethodRule>;

const legacy = {
  ...both,
  initialize: request('server'),
  ping: request('server'),
  'logging/setLevel': request('server'),
  'resources/subscribe': request('resource'),
  'resources/unsubscribe': request('resource'),
  'notifications/initialized': notification('server'),
  'notifications/progress': notification('server'),
  'notifications/roots/list_changed': notification('server'),
} as const satisfies Record<string, MethodRule>;

const modern = {
  ...both,
  'server/discover': request('server'),
  'subscriptions/listen': request('listen'),
  // The tasks extension (ext-tasks 2026-07-28).
  'tasks/get': request('task'),
  'tasks/update': request('task'),
  'tasks/cancel': request('task'),
} as const satisfies Record<string, MethodRule>;

const methodTable: Readonly<Record<ProtocolRevision, Readonly<Record<string, MethodRule>>>> = {
  '2026-07-28': modern,
  '2025-11-25': {
    ...legacy,
    'tasks/get': request('refused'),
    'tasks/result': request('refused'),
    'tasks/list': request('refused'),
    'tasks/cancel': request('refused'),
    'notifications/tasks/status': notification('refused'),
  },
  '2025-06-18': legacy,
  '2025-03-26': legacy,
  '2024-11-05': legacy,
};

/** The rule of a method, or undefined where the revision has no such method. */
export function methodRule(revision: ProtocolRevision, method: string): MethodRule | undefined {
  const table = methodTable[revision];
  return Object.hasOwn(table, method) ? table[method] : undefined;
}

/** Every (revision, method, rule), for the tests and the reference page. */
export function allMethodRules(): { revision: ProtocolRevision; method: string; rule: MethodRule }[] {
  return protocolRevisions.flatMap((revision) =>
    Object.entries(methodTable[revision]).map(([method, rule]) => ({ revision, method, rule })),
  );
}
