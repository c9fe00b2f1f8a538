import { type MethodRule, oauthScopes, type OAuthScope, scopeOfKind, type TargetKind } from '@sallyport/schema';
import { objectMember, stringMember, type JsonObject, type Message } from '../mcp/envelope.ts';
import { covers, type Credential } from './credential.ts';

/**
 * The scopes that a request needs and its access token lacks, all of them. They narrow what grants open and never add
 * to it; a request by API key needs none.
 */
export function missingScopes(credential: Credential, rule: MethodRule, message: Message): readonly OAuthScope[] {
  if (credential.kind === 'apiKey') return [];
  const missing = new Set<OAuthScope>();
  for (const kind of kindsOf(rule, message)) if (!covers(credential, kind)) missing.add(scopeOfKind[kind]);
  return oauthScopes.filter((scope) => missing.has(scope));
}

/** The kinds of definitions that a method is about; none for those that open a session, keep it, or end it. */
function kindsOf(rule: MethodRule, { params }: Message): readonly TargetKind[] {
  switch (rule.permission) {
    case 'tool':
    case 'prompt':
    case 'resource':
      return [rule.permission];
    case 'task':
      return ['tool'];
    case 'completion':
      return [stringMember(objectMember(params, 'ref') ?? {}, 'type') === 'ref/prompt' ? 'prompt' : 'resource'];
    case 'listen':
      return listenedKinds(params);
    case 'server':
      return rule.list === undefined ? [] : [rule.list.target];
    case 'refused':
      return [];
    default:
      return rule.permission satisfies never;
  }
}

/** 2026-07-28 basic/patterns/subscriptions: what may be listened to, by kind. */
const listenedBy = {
  toolsListChanged: 'tool',
  promptsListChanged: 'prompt',
  resourcesListChanged: 'resource',
  resourceSubscriptions: 'resource',
  taskIds: 'tool',
} as const satisfies Record<string, TargetKind>;

function listenedKinds(params: JsonObject): TargetKind[] {
  const wanted = objectMember(params, 'notifications') ?? {};
  return Object.entries(listenedBy).flatMap(([member, kind]) => {
    const value = wanted[member];
    return value === undefined || value === false ? [] : [kind];
  });
}
