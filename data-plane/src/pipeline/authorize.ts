import {
  AppError,
  methodRule,
  type AccessTarget,
  type Decision,
  type ErrorCode,
  type MethodRule,
  type TargetKind,
} from '@sallyport/schema';
import { objectMember, stringMember, type JsonObject, type Message } from '../mcp/envelope.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { mayCall, type DecisionCache, type DecisionSet } from './decisions.ts';
import type { Authorized, Routed, RuntimeSource } from './exchange.ts';

export interface AuthorizeContext {
  readonly decisions: DecisionCache;
  readonly runtimes: Pick<RuntimeSource, 'now' | 'contactAgeMs'>;
}

const notAvailable: Readonly<Record<TargetKind, ErrorCode>> = {
  tool: 'TOOL_NOT_AVAILABLE',
  prompt: 'PROMPT_NOT_AVAILABLE',
  resource: 'RESOURCE_NOT_AVAILABLE',
};

/**
 * Decides whether the exchange may go on: the server, then the method by the table of its revision, then what the
 * method aims at. Nothing matching is a no; what is denied is answered exactly as what does not exist.
 * @throws AppError NOT_FOUND, CONFIG_STALE, METHOD_NOT_FOUND, INVALID_PARAMS, …_NOT_AVAILABLE
 */
export function authorize(routed: Routed, context: AuthorizeContext): Authorized {
  const { server, runtime, received, authenticated } = routed;
  const { exchange, message } = received;
  const set = context.decisions.get(server, authenticated.principal, context.runtimes.now());
  exchange.decision = set.server;
  if (set.server.effect === 'deny') throw new AppError('NOT_FOUND');
  const stalenessMaxMs = server.document.configStalenessMaxMs ?? runtime.limits.configStalenessMaxMs;
  if (context.runtimes.contactAgeMs() > stalenessMaxMs) {
    exchange.decision = { effect: 'deny', reason: 'CONFIG_STALE', grantIds: [] };
    throw new AppError('CONFIG_STALE');
  }
  const isAllowed = (target: AccessTarget): boolean => set.decide(target).effect === 'allow';
  const rule = message === null ? null : ruleOf(routed, message);
  const targets = rule === null || message === null ? [] : targetsOf(rule, message);
  exchange.target = targets[0] ?? null;
  const decision = decideAll(set, targets);
  exchange.decision = decision.decision;
  if (decision.decision.effect === 'deny') throw notAvailableError(decision.denied);
  const [target = null] = targets;
  return { routed, rule, target, decision: decision.decision, isAllowed } as Authorized;
}

/**
 * The same question again under another configuration, key and principal included: before a call is sent, and for
 * streams that are open.
 */
export function reauthorize(authorized: Authorized, runtime: Runtime, context: AuthorizeContext): Authorized {
  const { routed } = authorized;
  const nowMs = context.runtimes.now();
  const entry = runtime.apiKeyByHash.get(routed.authenticated.keyHash);
  if (entry === undefined || entry.principal.id !== routed.authenticated.principal.id || !mayCall(entry, nowMs)) {
    throw new AppError('UNAUTHENTICATED');
  }
  const server = runtime.serverById.get(routed.server.document.id);
  if (server === undefined || server.document.slug !== routed.received.slug) throw new AppError('NOT_FOUND');
  if (routed.session !== null && routed.session.principalEpoch !== entry.principal.epoch) {
    throw new AppError('SESSION_NOT_FOUND');
  }
  const authenticated = { ...routed.authenticated, principal: entry.principal };
  return authorize({ ...routed, authenticated, runtime, server }, context);
}

/** A response to a server's request belongs to a call that was authorized; the server decision is all it needs. */
function ruleOf(routed: Routed, message: Message): MethodRule | null {
  if (message.kind === 'response') return null;
  const rule = methodRule(routed.protocolRevision, message.method ?? '');
  if (rule === undefined || rule.permission === 'refused' || rule.message !== message.kind) {
    throw new AppError('METHOD_NOT_FOUND');
  }
  return rule;
}

/** What a method aims at, by the method table; empty where the server is all. */
function targetsOf(rule: MethodRule, message: Message): AccessTarget[] {
  switch (rule.permission) {
    case 'server':
      return [];
    case 'tool':
    case 'prompt':
      return [{ kind: rule.permission, name: requiredText(message.params, 'name') }];
    case 'resource':
      return [{ kind: 'resource', name: requiredText(message.params, 'uri') }];
    case 'completion':
      return [completionTarget(message.params)];
    case 'listen':
      return listenTargets(message.params);
    case 'refused':
      throw new AppError('METHOD_NOT_FOUND');
    default:
      return rule.permission satisfies never;
  }
}

function requiredText(params: JsonObject, key: string): string {
  const text = stringMember(params, key);
  if (text === undefined)
    throw new AppError('INVALID_PARAMS', { publicMessage: `Invalid params: ${key} is not a string` });
  return text;
}

function completionTarget(params: JsonObject): AccessTarget {
  const ref = objectMember(params, 'ref') ?? {};
  switch (stringMember(ref, 'type')) {
    case 'ref/prompt':
      return { kind: 'prompt', name: requiredText(ref, 'name') };
    case 'ref/resource':
      return { kind: 'resource', name: requiredText(ref, 'uri') };
    default:
      throw new AppError('INVALID_PARAMS', { publicMessage: 'Invalid params: ref.type is not known' });
  }
}

function listenTargets(params: JsonObject): AccessTarget[] {
  const uris = objectMember(params, 'notifications')?.['resourceSubscriptions'];
  if (uris === undefined) return [];
  if (!Array.isArray(uris) || !uris.every((uri) => typeof uri === 'string')) {
    throw new AppError('INVALID_PARAMS', {
      publicMessage: 'Invalid params: resourceSubscriptions is not a list of URIs',
    });
  }
  return uris.map((uri) => ({ kind: 'resource', name: uri }));
}

/** The first denial, or the union of what allowed; the server decision where there is no target. */
function decideAll(
  set: DecisionSet,
  targets: readonly AccessTarget[],
): { decision: Decision; denied: AccessTarget | null } {
  const [only] = targets;
  if (only === undefined) return { decision: set.server, denied: null };
  if (targets.length === 1) return { decision: set.decide(only), denied: only };
  const grantIds = new Set<string>();
  for (const target of targets) {
    const decision = set.decide(target);
    if (decision.effect === 'deny') return { decision, denied: target };
    for (const id of decision.grantIds) grantIds.add(id);
  }
  return { decision: { effect: 'allow', reason: 'GRANTED', grantIds: [...grantIds].sort() }, denied: null };
}

function notAvailableError(target: AccessTarget | null): AppError {
  if (target === null) return new AppError('NOT_FOUND');
  // 2026-07-28 server/resources, Error Handling: the URI comes back in `data`. It is the caller's own.
  return new AppError(notAvailable[target.kind], target.kind === 'resource' ? { data: { uri: target.name } } : {});
}
