import {
  interceptorNameLengthMax,
  mutablePathProblem,
  webhookAlgorithms,
  webhookDeadlineMsDefault,
  webhookDeadlineMsMax,
  webhookDeadlineMsMin,
  webhookPathsMax,
  webhookPayloadBytesDefault,
  webhookPayloadBytesMax,
  webhookPayloadBytesMin,
} from '@sallyport/schema';
import { readWebhookSecret } from '@sallyport/schema/platform';
import { descriptionLengthMax, nameLengthMax, type Violations } from '../database/violations.ts';
import type { WebhookRow } from './inspection.tables.ts';

/** What may be said of a webhook when it is made and anew later. Absent: the default, or as it was. */
export interface WebhookFieldsInput {
  readonly name?: string | null | undefined;
  readonly description?: string | null | undefined;
  readonly url?: string | null | undefined;
  readonly mode?: WebhookRow['mode'] | null | undefined;
  readonly events?: readonly WebhookRow['events'][number][] | null | undefined;
  readonly failMode?: WebhookRow['failMode'] | null | undefined;
  readonly content?: WebhookRow['content'] | null | undefined;
  readonly deadlineMs?: number | null | undefined;
  readonly payloadBytesMax?: number | null | undefined;
  readonly mutablePaths?: readonly string[] | null | undefined;
  readonly interceptor?: string | null | undefined;
}

export type WebhookFields = Pick<
  WebhookRow,
  | 'name'
  | 'description'
  | 'url'
  | 'mode'
  | 'events'
  | 'failMode'
  | 'content'
  | 'deadlineMs'
  | 'payloadBytesMax'
  | 'mutablePaths'
  | 'interceptor'
>;

export const newWebhook: Omit<WebhookFields, 'name' | 'url' | 'events'> = {
  description: '',
  mode: 'shadow',
  failMode: 'closed',
  content: 'redacted',
  deadlineMs: webhookDeadlineMsDefault,
  payloadBytesMax: webhookPayloadBytesDefault,
  mutablePaths: [],
  interceptor: null,
};

/** The fields after `input` was said over `before`; lists are said as a whole. */
export function webhookFieldsOf(input: WebhookFieldsInput, before: WebhookFields): WebhookFields {
  return {
    name: input.name ?? before.name,
    description: input.description ?? before.description,
    url: input.url ?? before.url,
    mode: input.mode ?? before.mode,
    events: [...new Set(input.events ?? before.events)],
    failMode: input.failMode ?? before.failMode,
    content: input.content ?? before.content,
    deadlineMs: input.deadlineMs ?? before.deadlineMs,
    payloadBytesMax: input.payloadBytesMax ?? before.payloadBytesMax,
    mutablePaths: [...new Set(input.mutablePaths ?? before.mutablePaths)],
    interceptor: input.interceptor ?? before.interceptor,
  };
}

/** Everything wrong with a webhook but where its URL leads, which only a look-up tells. */
export function checkWebhook(found: Violations, fields: WebhookFields): void {
  const { events, content, mutablePaths } = fields;
  found.text('input.name', fields.name, 1, nameLengthMax);
  found.text('input.description', fields.description, 0, descriptionLengthMax);
  found.between('input.deadlineMs', fields.deadlineMs, webhookDeadlineMsMin, webhookDeadlineMsMax);
  found.between('input.payloadBytesMax', fields.payloadBytesMax, webhookPayloadBytesMin, webhookPayloadBytesMax);
  found.text('input.interceptor', fields.interceptor, 1, interceptorNameLengthMax);
  if (fields.interceptor !== null && content === 'digest') {
    found.add('input.content', 'must be FULL or REDACTED for interceptors, which judge what they see');
  }
  if (events.length === 0) found.add('input.events', 'must name at least one event');
  if (fields.interceptor !== null && events.includes('auditBatch')) {
    found.add('input.events', 'interceptors are asked, not told: AUDIT_BATCH needs a webhook of its own');
  }
  if (mutablePaths.length > webhookPathsMax)
    found.add('input.mutablePaths', `must have at most ${webhookPathsMax} paths`);
  for (const [index, path] of mutablePaths.slice(0, webhookPathsMax).entries()) {
    const problem = mutablePathProblem(path);
    if (problem !== undefined) found.add(`input.mutablePaths[${index}]`, problem);
  }
  if (mutablePaths.length > 0 && content === 'digest') {
    found.add('input.mutablePaths', 'needs content FULL or REDACTED: who sees nothing changes nothing');
  }
}

/** Messages leave the organization's network: encrypted, unless they do not leave the machine. */
export function urlProblem(text: string): string | undefined {
  const url = URL.parse(text);
  if (url === null || url.protocol === 'https:') return undefined;
  const isLoopback = /^(?:localhost|127\.\d+\.\d+\.\d+|\[::1\])$/.test(url.hostname);
  return isLoopback ? undefined : 'must start with https:// unless it leads to this machine itself';
}

/** A secret that the caller brings along. */
export function checkSecret(
  found: Violations,
  algorithm: WebhookRow['algorithm'],
  secret: string | null | undefined,
): void {
  if (secret === undefined || secret === null) return;
  const [hmac] = webhookAlgorithms;
  if (algorithm !== hmac)
    found.add('input.secret', 'only HMAC takes a secret; private keys are made here and stay here');
  else if (readWebhookSecret(secret) === undefined) {
    found.add('input.secret', 'must be whsec_ and 24 to 64 random bytes in base64');
  }
}
