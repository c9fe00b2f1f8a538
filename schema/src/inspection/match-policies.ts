import type { AccessTarget } from '../decide.ts';
import { type DetectorName, detectorNames } from '../detectors/finding.ts';
import { compileGlob, type Matcher } from '../glob.ts';
import type { ServerDefinitions } from '../server-definitions.ts';
import type { DefinitionKind, PrincipalRecord, ServerDocument } from '../snapshot.ts';
import { selectorMatches, toolRisks } from '../snapshot.ts';
import type { PolicyDirection, PolicyEntry, PolicyMatch } from './policy.ts';

/** A policy with what matching needs, compiled once. */
export interface CompiledPolicy {
  readonly entry: PolicyEntry;
  readonly detectors: ReadonlySet<DetectorName>;
  readonly targets: Readonly<Record<AccessTarget['kind'], readonly Matcher[]>> | null;
  readonly principals: ReadonlySet<string> | null;
  readonly groups: ReadonlySet<string>;
  readonly riskMin: number | null;
}

/** The policies about one server, by direction, in their order. */
export interface ServerPolicies extends Readonly<Record<PolicyDirection, readonly CompiledPolicy[]>> {
  /** Those that keep messages of exchanges; null where none does. */
  readonly capturing: readonly CompiledPolicy[] | null;
}

/** What an exchange is, as policies see it. */
export interface InspectedExchange {
  readonly principal: Pick<PrincipalRecord, 'id' | 'groups'>;
  /** What it uses; null where it uses nothing by name. */
  readonly target: AccessTarget | null;
  readonly definitions: Pick<ServerDefinitions, 'labelled'>;
}

export function compilePolicy(entry: PolicyEntry): CompiledPolicy {
  const { match } = entry;
  const { tools, prompts, resources } = match;
  const namesTargets = tools.length + prompts.length + resources.length > 0 || match.riskMin !== null;
  const anyTool = match.riskMin !== null && tools.length === 0 ? ['*'] : tools;
  return {
    entry,
    detectors: new Set(entry.rules.map(({ detector }) => detector)),
    targets: namesTargets
      ? {
          tool: anyTool.map(compileGlob),
          prompt: prompts.map(compileGlob),
          resource: resources.map(compileGlob),
        }
      : null,
    principals: match.principalIds.length + match.groupIds.length === 0 ? null : new Set(match.principalIds),
    groups: new Set(match.groupIds),
    riskMin: match.riskMin === null ? null : toolRisks.indexOf(match.riskMin),
  };
}

/**
 * The policies of a configuration. Which of them are about a server is found out once per server, so that an exchange
 * of one that no policy is about costs one lookup.
 */
export class PolicySet {
  readonly #policies: readonly CompiledPolicy[];
  readonly #ofServer = new WeakMap<ServerDocument, ServerPolicies | null>();

  constructor(entries: readonly PolicyEntry[]) {
    this.#policies = entries.map(compilePolicy);
  }

  /** Null where no policy is about the server. */
  of(server: ServerDocument): ServerPolicies | null {
    const known = this.#ofServer.get(server);
    if (known !== undefined) return known;
    const about = this.#policies.filter(({ entry }) => isAbout(entry.match, server));
    const inDirection = (direction: PolicyDirection): CompiledPolicy[] =>
      about.filter(({ entry }) => looks(entry) && isInDirection(entry.match, direction));
    const capturing = about.filter(({ entry }) => entry.mode === 'enforce' && entry.capture !== undefined);
    const policies =
      about.length === 0
        ? null
        : {
            request: inDirection('request'),
            response: inDirection('response'),
            capturing: capturing.length === 0 ? null : capturing,
          };
    this.#ofServer.set(server, policies);
    return policies;
  }
}

function isAbout({ serverIds, serverLabels }: PolicyMatch, server: Pick<ServerDocument, 'id' | 'labels'>): boolean {
  if (serverIds.length === 0 && Object.keys(serverLabels).length === 0) return true;
  return serverIds.includes(server.id) || selectorMatches(serverLabels, server.labels);
}

/** One that only captures looks at nothing; one that does nothing at all counts among those that look, and blocks. */
function looks({ rules, webhookIds, capture }: PolicyEntry): boolean {
  return rules.length > 0 || webhookIds !== undefined || capture === undefined;
}

function isInDirection({ directions }: PolicyMatch, direction: PolicyDirection): boolean {
  return directions.length === 0 || directions.includes(direction);
}

/** The policy that keeps an exchange's messages of a direction: the first that does and is about it. */
export function capturingPolicy(
  policies: readonly CompiledPolicy[],
  direction: PolicyDirection,
  exchange: InspectedExchange,
): CompiledPolicy | null {
  return (
    policies.find(
      (policy) =>
        policy.entry.capture?.directions.includes(direction) === true &&
        isInDirection(policy.entry.match, direction) &&
        matches(policy, exchange),
    ) ?? null
  );
}

/** Whether a policy is about what goes one way in an exchange with a server. */
export function isAboutExchange(
  policy: CompiledPolicy,
  server: Pick<ServerDocument, 'id' | 'labels'>,
  direction: PolicyDirection,
  exchange: InspectedExchange,
): boolean {
  const { match } = policy.entry;
  return isAbout(match, server) && isInDirection(match, direction) && matches(policy, exchange);
}

/** Those of a server's policies that are about an exchange, in their order. */
export function matchingPolicies(
  policies: readonly CompiledPolicy[],
  exchange: InspectedExchange,
): readonly CompiledPolicy[] {
  return policies.filter((policy) => matches(policy, exchange));
}

function matches(policy: CompiledPolicy, { principal, target, definitions }: InspectedExchange): boolean {
  const { principals, groups, targets, riskMin } = policy;
  if (principals !== null && !principals.has(principal.id) && !principal.groups.some((group) => groups.has(group))) {
    return false;
  }
  if (targets === null) return true;
  if (target === null || !targets[target.kind].some((isNamed) => isNamed(target.name))) return false;
  if (riskMin === null) return true;
  if (target.kind !== 'tool') return false;
  const risk = definitions.labelled(target).labels?.risk ?? null;
  return risk === null || toolRisks.indexOf(risk) >= riskMin;
}

/**
 * Whether a policy is about a definition of a server. Who may come to use it, in which direction messages about it go,
 * and a risk that nobody has judged yet narrow nothing. Instructions and what a server says that it is, which no policy
 * can name, are of those that name nothing.
 */
export function isAboutDefinition(
  { entry, targets }: CompiledPolicy,
  server: Pick<ServerDocument, 'id' | 'labels'>,
  { kind, name }: { readonly kind: DefinitionKind; readonly name: string },
): boolean {
  if (!isAbout(entry.match, server)) return false;
  if (targets === null) return true;
  // A template stands for resources that are not known yet.
  if (kind === 'resourceTemplate') return targets.resource.length > 0;
  if (kind === 'instructions' || kind === 'serverInfo') return false;
  return targets[kind === 'view' ? 'resource' : kind].some((isNamed) => isNamed(name));
}

/** The detectors that some of the policies need, in their order. */
export function detectorsOf(policies: readonly CompiledPolicy[]): DetectorName[] {
  return detectorNames.filter((name) => policies.some(({ detectors }) => detectors.has(name)));
}
