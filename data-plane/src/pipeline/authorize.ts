import {
  AppError,
  methodRule,
  refusal,
  type AccessTarget,
  type Decision,
  type ErrorCode,
  type MethodRule,
  type TargetKind,
  tasksExtension,
} from '@sallyport/schema';
import { objectMember, stringMember, type JsonObject, type Message } from '../mcp/envelope.ts';
import { openTask, type OpenedTask } from '../bridge/sealed-task.ts';
import type { Runtime } from '../runtime/runtime.ts';
import { memberRange } from '../mcp/json-scanner.ts';
import { accessRequest } from './access-request.ts';
import { covers, decideKnown, isFor, missingStepUp, principalStill } from './credential.ts';
import type { DecisionContext } from './decisions.ts';
import { missingScopes } from './required-scopes.ts';
import type { Authorized, Routed } from './exchange.ts';

const notAvailable: Readonly<Record<TargetKind, ErrorCode>> = {
  tool: 'TOOL_NOT_AVAILABLE',
  prompt: 'PROMPT_NOT_AVAILABLE',
  resource: 'RESOURCE_NOT_AVAILABLE',
};

/**
 * Decides whether the exchange may go on: the server, then the method by the table of its revision, then what the
 * method aims at. Nothing matching is a no; what is denied is answered exactly as what does not exist.
 * @throws AppError NOT_FOUND, INSUFFICIENT_AUTHENTICATION, CONFIG_STALE, METHOD_NOT_FOUND, INSUFFICIENT_SCOPE, INVALID_PARAMS, …_NOT_AVAILABLE,
 * APPROVAL_NEEDED
 */
export function authorize(routed: Routed, context: DecisionContext): Authorized {
  const { server, runtime, received, authenticated } = routed;
  const { exchange, message } = received;
  const { principal, credential } = authenticated;
  const set = context.decisions.get(server, principal, context.runtimes.now());
  const asking = { exchange, principal, server, runtime, runtimes: context.runtimes };
  const listing = accessRequest(asking, null);
  const known = decideKnown(set, credential, server, runtime, listing);
  exchange.decision = known;
  if (known.effect === 'deny') throw new AppError('NOT_FOUND');
  const stepUp = missingStepUp(principal, credential, server, runtime, context.runtimes.now());
  if (stepUp !== undefined) {
    exchange.decision = refusal('INSUFFICIENT_AUTHENTICATION');
    throw new AppError('INSUFFICIENT_AUTHENTICATION', { data: { stepUp } });
  }
  const stalenessMaxMs = server.document.configStalenessMaxMs ?? runtime.limits.configStalenessMaxMs;
  if (context.runtimes.contactAgeMs() > stalenessMaxMs) {
    exchange.decision = refusal('CONFIG_STALE');
    throw new AppError('CONFIG_STALE');
  }
  const isAllowed = (target: AccessTarget): boolean =>
    covers(credential, target.kind) && set.decide(target, listing).effect !== 'deny';
  const rule = message === null ? null : ruleOf(routed, message);
  if (rule !== null && message !== null) assertScopes(routed, rule, message);
  const tasks: readonly OpenedTask[] = rule === null || message === null ? [] : tasksOf(rule, message, routed);
  const named = rule === null || message === null ? [] : targetsOf(rule, message);
  // A task is its call's: whoever may not use the tool any more may not learn what came of it either.
  const targets = [...named, ...tasks.map(({ tool }): AccessTarget => ({ kind: 'tool', name: tool }))];
  exchange.target = targets[0] ?? null;
  const isCall = rule?.permission === 'tool' || rule?.permission === 'prompt';
  const request = isCall ? accessRequest(asking, () => argumentsText(routed)) : listing;
  const decided = targets.map((target) => set.decide(target, request));
  const decision = unite(known, decided);
  exchange.decision = decision;
  if (decision.effect === 'deny') {
    const at = decided.indexOf(decision);
    throw at >= named.length ? new AppError('TASK_NOT_AVAILABLE') : notAvailableError(targets[at] ?? null);
  }
  // To complete an argument is to look at a prompt, which the list shows; it is not to get it.
  if (decision.effect === 'requireApproval' && rule?.permission !== 'completion') throw new AppError('APPROVAL_NEEDED');
  const [target = null] = targets;
  return { routed, rule, target, tasks, decision, isAllowed } as Authorized;
}

/**
 * The same question again under another configuration, key and principal included: before a call is sent, and for
 * streams that are open.
 */
export function reauthorize(authorized: Authorized, runtime: Runtime, context: DecisionContext): Authorized {
  const { routed } = authorized;
  const nowMs = context.runtimes.now();
  const { credential } = routed.authenticated;
  const principal = principalStill(credential, runtime, nowMs, routed.received.request.remoteAddress);
  if (principal === undefined || principal.id !== routed.authenticated.principal.id) {
    throw new AppError('UNAUTHENTICATED');
  }
  if (!isFor(credential, routed.received.slug, runtime)) throw new AppError('UNAUTHENTICATED');
  const server = runtime.serverById.get(routed.server.document.id);
  if (server === undefined || server.document.slug !== routed.received.slug) throw new AppError('NOT_FOUND');
  if (routed.session !== null && routed.session.principalEpoch !== principal.epoch) {
    throw new AppError('SESSION_NOT_FOUND');
  }
  const authenticated = { ...routed.authenticated, principal };
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

function assertScopes({ authenticated, received }: Routed, rule: MethodRule, message: Message): void {
  const missing = missingScopes(authenticated.credential, rule, message);
  if (missing.length === 0) return;
  received.exchange.decision = refusal('INSUFFICIENT_SCOPE');
  throw new AppError('INSUFFICIENT_SCOPE', { data: { missingScopes: missing } });
}

/** What a method aims at, by the method table; empty where the server is all. */
function targetsOf(rule: MethodRule, message: Message): AccessTarget[] {
  switch (rule.permission) {
    case 'server':
    case 'task':
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

/**
 * The tasks that a request names: of this principal and server, each.
 * @throws AppError TASK_NOT_AVAILABLE; METHOD_NOT_FOUND where the server's tasks are not let through, or it has none that
 *   a modern client could name
 */
function tasksOf(rule: MethodRule, message: Message, { authenticated, runtime, server }: Routed): OpenedTask[] {
  const tokens = taskTokens(rule, message);
  if (tokens.length === 0) return [];
  const isCarried = server.document.extensions.includes(tasksExtension) && server.eras.has('modern');
  if (!isCarried) throw new AppError(rule.permission === 'task' ? 'METHOD_NOT_FOUND' : 'TASK_NOT_AVAILABLE');
  const { id, epoch } = authenticated.principal;
  const owner = { principalId: id, principalEpoch: epoch, serverId: server.document.id };
  return tokens.map((token) => {
    const task = openTask(runtime, owner, token);
    if (task === undefined) throw new AppError('TASK_NOT_AVAILABLE');
    return task;
  });
}

function taskTokens(rule: MethodRule, { params }: Message): readonly string[] {
  if (rule.permission === 'task') return [requiredText(params, 'taskId')];
  const ids = rule.permission === 'listen' ? objectMember(params, 'notifications')?.['taskIds'] : undefined;
  if (ids === undefined) return [];
  if (!Array.isArray(ids) || !ids.every((taskId) => typeof taskId === 'string')) {
    throw new AppError('INVALID_PARAMS', { publicMessage: 'Invalid params: taskIds is not a list of task ids' });
  }
  return ids;
}

/** The JSON of the call's arguments, as it stands in the body; undefined where it has none. */
function argumentsText({ received }: Routed): string | undefined {
  const params = received.message?.paramsRange ?? null;
  const range = params === null ? undefined : memberRange(received.body, params, 'arguments');
  return range === undefined ? undefined : received.body.toString('utf8', range.start, range.end);
}

/** The first denial, else the first that needs an approval, else what allowed; the server's where there is no target. */
function unite(known: Decision, decided: readonly Decision[]): Decision {
  const [only] = decided;
  if (only === undefined) return known;
  const hindering =
    decided.find(({ effect }) => effect === 'deny') ?? decided.find(({ effect }) => effect === 'requireApproval');
  if (hindering !== undefined || decided.length === 1) return hindering ?? only;
  const grantIds = new Set(decided.flatMap((decision) => decision.grantIds));
  return { ...only, grantIds: [...grantIds].sort() };
}

function notAvailableError(target: AccessTarget | null): AppError {
  if (target === null) return new AppError('NOT_FOUND');
  // 2026-07-28 server/resources, Error Handling: the URI comes back in `data`. It is the caller's own.
  return new AppError(notAvailable[target.kind], target.kind === 'resource' ? { data: { uri: target.name } } : {});
}
