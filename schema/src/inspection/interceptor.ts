/**
 * How an interceptor of an MCP server (SEP-2624, `interceptor/invoke`) is asked, and what its results say as verdicts.
 * Who it is, what it does and when it is asked comes of `interceptors/list`; whether it counts and what becomes of its
 * failures is the webhook's to say, never the server's.
 */
import { z } from 'zod';
import { pointerPart } from '../json-pointer.ts';
import { type PatchOperation, webhookContract, type WebhookFailure, type WebhookVerdict } from './webhook.ts';
import type { InspectionEvent } from './webhook-event.ts';

const phases = ['request', 'response', 'both'] as const;
const changesMax = 64;
/** Of a decimal number that every double holds. */
const exactDigitsMax = 15;

const interceptorSchema = z.object({
  name: z.string(),
  type: z.enum(['validation', 'mutation']),
  hook: z.object({ events: z.array(z.string()), phase: z.enum(phases) }),
});
export type Interceptor = z.infer<typeof interceptorSchema>;

/** The interceptor of that name in a result of `interceptors/list`; undefined where it has none that can be used. */
export function findInterceptor(result: unknown, name: string): Interceptor | undefined {
  const listed = z.object({ interceptors: z.array(z.unknown()) }).safeParse(result);
  if (!listed.success) return undefined;
  const named = listed.data.interceptors.flatMap((each) => interceptorSchema.safeParse(each).data ?? []);
  return named.find((each) => each.name === name);
}

/** What an interceptor is asked about a message. */
export interface Invocation {
  /** The method, such as tools/call. */
  readonly event: string;
  readonly phase: 'request' | 'response';
  /** `params` of a request, `result` of an answer; JSON pointer to it in the message. */
  readonly at: readonly string[];
  readonly payload: unknown;
}

const listMembers: Readonly<Record<string, string>> = {
  'tools/list': 'tools',
  'prompts/list': 'prompts',
  'resources/list': 'resources',
  'resources/templates/list': 'resourceTemplates',
};

/** Undefined where there is nothing to show, or the message is no object. */
export function invocationOf({ kind, method, message }: InspectionEvent): Invocation | undefined {
  if (message === null) return undefined;
  const shown = parseExactly(message);
  if (typeof shown !== 'object' || shown === null || Array.isArray(shown)) return undefined;
  const event = method ?? '';
  if (kind === 'definition') {
    const member = listMembers[event];
    const payload = member === undefined ? shown : { [member]: [shown] };
    return { event, phase: 'response', at: [], payload };
  }
  const said = new Map(Object.entries(shown));
  const own = said.get('method');
  // What a server asks on the way is a request of its own.
  if (typeof own === 'string')
    return { event: own, phase: 'request', at: ['params'], payload: said.get('params') ?? {} };
  if (said.has('result')) return { event, phase: 'response', at: ['result'], payload: said.get('result') };
  return { event, phase: 'response', at: [], payload: { error: said.get('error') ?? null } };
}

/** Undefined where a number is more exact than what would be shown: what was judged must be what goes on. */
function parseExactly(text: string): unknown {
  let isExact = true;
  const reviver = (_key: string, value: unknown, context?: { readonly source?: string }): unknown => {
    if (typeof value !== 'number') return value;
    const digits = (context?.source ?? String(value)).replace(/e.*$/i, '').replace(/\D/g, '').replace(/^0+/, '');
    if (digits.length > exactDigitsMax || !Number.isFinite(value)) isExact = false;
    return value;
  };
  const value: unknown = JSON.parse(text, reviver);
  return isExact ? value : undefined;
}

/** Whether an interceptor wants to be asked about this at all. */
export function isHooked({ hook }: Interceptor, { event, phase }: Pick<Invocation, 'event' | 'phase'>): boolean {
  if (hook.phase !== 'both' && hook.phase !== phase) return false;
  const [namespace = ''] = event.split('/');
  return [event, '*', `*/${phase}`, `${namespace}/*`].some((pattern) => hook.events.includes(pattern));
}

const common = { interceptor: z.string().optional(), phase: z.string().optional(), type: z.string().optional() };
const severity = z.enum(['info', 'warn', 'error']);
const validation = z.object({ ...common, valid: z.boolean(), severity: severity.optional() });
const mutation = z.object({ ...common, modified: z.boolean(), payload: z.unknown() });

/** The verdict in a result of `interceptor/invoke`, or why it is none. */
export function readInterception(
  result: unknown,
  interceptor: Interceptor,
  asked: Invocation,
  { id, digest }: Pick<InspectionEvent, 'id' | 'digest'>,
): WebhookVerdict | WebhookFailure {
  const bound = { contract: webhookContract, id, digest } as const;
  const parsed = (interceptor.type === 'validation' ? validation : mutation).safeParse(result);
  if (!parsed.success) return 'answerInvalid';
  const said = parsed.data;
  const isForeign =
    (said.interceptor !== undefined && said.interceptor !== interceptor.name) ||
    (said.phase !== undefined && said.phase !== asked.phase) ||
    (said.type !== undefined && said.type !== interceptor.type);
  if (isForeign) return 'foreignVerdict';
  if ('valid' in said) {
    if (said.valid) return { ...bound, decision: 'allow' };
    // Only errors block; whoever calls something invalid without saying how badly means an error.
    const worst = said.severity ?? 'error';
    return { ...bound, decision: worst === 'error' ? 'deny' : 'allow', reasonCode: `interceptor.${worst}` };
  }
  if (!said.modified) return { ...bound, decision: 'allow' };
  if (asked.at.length === 0) return 'patchForbidden';
  const patch = changesBetween(asked.payload, said.payload, asked.at);
  if (patch.length > changesMax) return 'patchInvalid';
  return patch.length === 0 ? { ...bound, decision: 'allow' } : { ...bound, decision: 'modify', patch };
}

/** The smallest replacements that make one value of another: what is added or taken away replaces what it is in. */
export function changesBetween(before: unknown, after: unknown, at: readonly string[]): PatchOperation[] {
  const whole = (): PatchOperation[] => [
    {
      op: 'replace',
      path: at.map((part) => `/${pointerPart(part)}`).join(''),
      value: after as PatchOperation['value'],
    },
  ];
  if (Array.isArray(before) && Array.isArray(after)) {
    if (before.length !== after.length) return whole();
    return before.flatMap((value: unknown, index) => changesBetween(value, after[index], [...at, String(index)]));
  }
  if (isPlain(before) && isPlain(after)) {
    const names = Object.keys(before);
    const isSame = names.length === Object.keys(after).length && names.every((name) => Object.hasOwn(after, name));
    if (!isSame) return whole();
    return names.flatMap((name) => changesBetween(before[name], after[name], [...at, name]));
  }
  return Object.is(before, after) ? [] : whole();
}

function isPlain(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
