/** Webhooks: who is asked about messages outside of the gateway, what is told to whom, and what an answer may say. */
import { z } from 'zod';

/** What a webhook is asked about: messages to servers, messages to clients, definitions; or told of: audit events. */
export const webhookEvents = ['request', 'response', 'definition', 'auditBatch'] as const;
export type WebhookEvent = (typeof webhookEvents)[number];

/** The `type` of what is sent, by event. */
export const webhookTypes = {
  request: 'mcp.request.inspect',
  response: 'mcp.response.inspect',
  definition: 'mcp.definition.inspect',
  auditBatch: 'mcp.audit.batch',
} as const satisfies Record<WebhookEvent, string>;

/** `enforce`: its verdict counts. `shadow`: the record alone tells of it. What is `off` is not asked. */
export const webhookModes = ['enforce', 'shadow', 'off'] as const;
export type WebhookMode = (typeof webhookModes)[number];

/** What becomes of a message about which a webhook gave no valid verdict: `closed` blocks it. */
export const webhookFailModes = ['closed', 'open'] as const;
export type WebhookFailMode = (typeof webhookFailModes)[number];

/**
 * What a webhook gets of a message. `full`: all of it. `redacted`: without the secrets and personal data that the
 * detectors find. `digest`: its SHA-256 and size alone.
 */
export const webhookContents = ['full', 'redacted', 'digest'] as const;
export type WebhookContent = (typeof webhookContents)[number];

/** `hmac`: HMAC-SHA256, `v1` of Standard Webhooks. `ed25519`: `v1a`. */
export const webhookAlgorithms = ['hmac', 'ed25519'] as const;
export type WebhookAlgorithm = (typeof webhookAlgorithms)[number];

/** The version of the contract that payloads and verdicts name. */
export const webhookContract = '1';

export const webhookDeadlineMsDefault = 500;
export const webhookDeadlineMsMin = 50;
export const webhookDeadlineMsMax = 10_000;
/** For all webhooks asked about one message together. */
export const webhookBudgetMsDefault = 2_000;
export const webhookBudgetMsMax = 30_000;
/** Of the message a webhook is asked about: the default, and the most that may be set. */
export const webhookPayloadBytesDefault = 1_048_576;
export const webhookPayloadBytesMin = 1_024;
export const webhookPayloadBytesMax = 4 * 1_048_576;
/** Of an answer. */
export const verdictBytesMax = 1_048_576;
export const webhooksPerPolicyMax = 8;
export const webhookPathsMax = 32;
export const interceptorNameLengthMax = 128;

/** Where a webhook may be allowed to change a message at all: below these, by event. Names, methods and ids are not. */
export const mutableRoots = {
  request: ['/params/arguments'],
  response: ['/result/content', '/result/structuredContent', '/result/messages', '/result/contents'],
} as const;

const id = z.string().min(1).max(128);
const pointer = /^(?:\/(?:[^~/]|~[01])*)+$/;
const pointerLengthMax = 512;

/** One of the keys that sign: while a key is replaced by another, both do. */
const signingKey = z.strictObject({
  /** HMAC: the secret. Ed25519: the seed of 32 bytes. In base64. */
  secret: z.base64().min(1),
  /** In the control plane's time; null where no end is set. */
  notAfter: z.number().int().nonnegative().nullable(),
});
export type WebhookSigningKey = z.infer<typeof signingKey>;

/** A webhook as nodes receive it. The document that holds it is sealed wherever it is stored. */
export const webhookEntrySchema = z.strictObject({
  id,
  /** Revision of the webhook, which records name. */
  version: z.number().int().positive(),
  url: z.url({ protocol: /^https?$/ }),
  mode: z.enum(webhookModes),
  events: z.array(z.enum(webhookEvents)).min(1),
  failMode: z.enum(webhookFailModes),
  content: z.enum(webhookContents),
  deadlineMs: z.number().int().min(webhookDeadlineMsMin).max(webhookDeadlineMsMax),
  payloadBytesMax: z.number().int().min(webhookPayloadBytesMin).max(webhookPayloadBytesMax),
  /** JSON pointers at or below which it may change a message; empty where it may not. */
  mutablePaths: z.array(z.string().max(pointerLengthMax)).max(webhookPathsMax),
  algorithm: z.enum(webhookAlgorithms),
  /** Of an MCP server of interceptors (SEP-2624), the one that is invoked; absent where the URL takes our own events. */
  interceptor: z.string().min(1).max(interceptorNameLengthMax).optional(),
  /** The newest first; without one that has not ended it cannot be asked, which is a failure. */
  signingKeys: z.array(signingKey).max(8),
});
export type WebhookEntry = z.infer<typeof webhookEntrySchema>;

export const webhooksDocumentSchema = z.strictObject({
  kind: z.literal('webhooks'),
  webhooks: z.array(webhookEntrySchema),
});

/** Why a path may not be one at which a webhook changes messages; undefined where it may. */
export function mutablePathProblem(path: string): string | undefined {
  const roots = [...mutableRoots.request, ...mutableRoots.response];
  if (path.length > pointerLengthMax || !pointer.test(path)) return 'must be a JSON pointer, such as /params/arguments';
  if (namesMeta(path)) return 'must not go through _meta';
  return roots.some((root) => isAtOrBelow(path, root)) ? undefined : `must be at or below one of ${roots.join(', ')}`;
}

/** Whether a webhook may change what is at the path. */
export function mayMutate(mutablePaths: readonly string[], path: string): boolean {
  if (mutablePathProblem(path) !== undefined) return false;
  return mutablePaths.some((allowed) => isAtOrBelow(path, allowed));
}

/** Whether a webhook may change anything of messages that go this way. */
export function mutates({ mutablePaths }: Pick<WebhookEntry, 'mutablePaths'>, event: 'request' | 'response'): boolean {
  const roots: readonly string[] = mutableRoots[event];
  return mutablePaths.some((path) => roots.some((root) => isAtOrBelow(path, root)));
}

function isAtOrBelow(path: string, root: string): boolean {
  return path === root || path.startsWith(`${root}/`);
}

function namesMeta(path: string): boolean {
  return path.split('/').includes('_meta');
}

/** Why there is no verdict that counts, as records name it. */
export const webhookFailures = [
  'timeout',
  'unreachable',
  'status',
  'redirect',
  'contentType',
  'answerTooLarge',
  'answerInvalid',
  'foreignVerdict',
  'patchForbidden',
  'patchInvalid',
  'argumentsInvalid',
  'payloadTooLarge',
  'notInspectable',
  'overloaded',
  'breakerOpen',
  'budgetSpent',
  'unknownWebhook',
  'unknownInterceptor',
  'noSigningKey',
] as const;
export type WebhookFailure = (typeof webhookFailures)[number];

/** To fail open is said of receivers: where nobody was even asked, it says nothing. */
export function mayFailOpen({ failMode }: Pick<WebhookEntry, 'failMode'>, failure: string): boolean {
  return failMode === 'open' && failure !== 'noSigningKey' && failure !== 'unknownWebhook';
}

const patchMax = 64;
const reasonCode = z.string().regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/);

const patchOperation = z.object({ op: z.literal('replace'), path: z.string().max(pointerLengthMax), value: z.json() });
export type PatchOperation = z.infer<typeof patchOperation>;

const bound = {
  contract: z.literal(webhookContract),
  /** `webhook-id` of what it answers. */
  id: z.string(),
  /** `data.digest` of what it answers. */
  digest: z.string(),
};

/** What a webhook answers about a message. Members that the contract does not name are ignored. */
export const webhookVerdictSchema = z.discriminatedUnion('decision', [
  z.object({ ...bound, decision: z.literal('allow'), reasonCode: reasonCode.optional() }),
  z.object({ ...bound, decision: z.literal('deny'), reasonCode: reasonCode.optional() }),
  z.object({
    ...bound,
    decision: z.literal('modify'),
    reasonCode: reasonCode.optional(),
    patch: z.array(patchOperation).min(1).max(patchMax),
  }),
]);
export type WebhookVerdict = z.infer<typeof webhookVerdictSchema>;

/**
 * The verdict in an answer's body, if it is one, and about what was asked.
 * @param asked id and digest that it must repeat: what was said of another message, or earlier, does not count
 */
export function readVerdict(
  body: Buffer,
  asked: { readonly id: string; readonly digest: string },
): WebhookVerdict | Extract<WebhookFailure, 'answerInvalid' | 'foreignVerdict'> {
  let parsed: ReturnType<typeof webhookVerdictSchema.safeParse>;
  try {
    parsed = webhookVerdictSchema.safeParse(JSON.parse(body.toString('utf8')));
  } catch {
    // No JSON, or a value that is nested deeper than anybody can walk.
    return 'answerInvalid';
  }
  if (!parsed.success) return 'answerInvalid';
  if (parsed.data.id !== asked.id || parsed.data.digest !== asked.digest) return 'foreignVerdict';
  return { ...parsed.data, ...ownReason(parsed.data.reasonCode) };
}

/** What receivers say must not read like what the gateway says of them. */
function ownReason(reason: string | undefined): { readonly reasonCode?: string } {
  const isOurs = (webhookFailures as readonly (string | undefined)[]).includes(reason);
  return isOurs ? { reasonCode: `receiver.${reason}` } : {};
}
