/** What the registry says of a server's tools, prompts and resources, indexed for decisions. */
import {
  type AccessRequest,
  type AccessTarget,
  type CompiledGrant,
  decide,
  type Decision,
  type LabelledTarget,
} from './decide.ts';
import { compileGlob, type Matcher } from './glob.ts';
import { definitionDigest } from './definition-digest.ts';
import type { DefinitionEntry, DefinitionKind } from './snapshot.ts';

/** The definitions of one server. */
export class ServerDefinitions {
  readonly #byKey = new Map<string, DefinitionEntry>();
  readonly #approvedTemplates: readonly Matcher[];
  readonly #withheldTemplates: readonly Matcher[];

  constructor(definitions: readonly DefinitionEntry[]) {
    for (const definition of definitions) this.#byKey.set(keyOf(definition.kind, definition.name), definition);
    const templates = definitions.filter(({ kind }) => kind === 'resourceTemplate');
    const matchersOf = (approved: boolean): Matcher[] =>
      templates.filter(({ state }) => (state === 'approved') === approved).map(({ name }) => templateMatcher(name));
    this.#approvedTemplates = matchersOf(true);
    this.#withheldTemplates = matchersOf(false);
  }

  get(kind: DefinitionKind, name: string): DefinitionEntry | undefined {
    return this.#byKey.get(keyOf(kind, name));
  }

  [Symbol.iterator](): Iterator<DefinitionEntry> {
    return this.#byKey.values();
  }

  labelled(target: AccessTarget): LabelledTarget {
    const labels = target.kind === 'tool' ? (this.get('tool', target.name)?.labels ?? null) : null;
    return { ...target, labels };
  }

  /**
   * Whether what a server sends may be shown: it is word by word what was approved under this name, and nothing else
   * that goes by the name awaits an approval. Not whether anybody was granted it.
   * @param raw the object as it came, parsed
   */
  isPinned(kind: DefinitionKind, name: string, raw: unknown): boolean {
    const entry = this.get(kind, name);
    return entry?.state === 'approved' && entry.approvedDigests.includes(definitionDigest(raw));
  }

  /** A tool or prompt must be approved; a resource must not be one that was withheld, itself, by its template or as a view. */
  isApproved({ kind, name }: AccessTarget): boolean {
    if (kind !== 'resource') return this.get(kind, name)?.state === 'approved';
    // One that nobody knows yet is compared, and withheld, when it is read.
    const view = this.get('view', name);
    if (view !== undefined && view.state !== 'approved') return false;
    const resource = this.get('resource', name);
    const template = this.get('resourceTemplate', name);
    if (resource !== undefined || template !== undefined) {
      return (resource?.state ?? 'approved') === 'approved' && (template?.state ?? 'approved') === 'approved';
    }
    const matches = (matcher: Matcher): boolean => matcher(name);
    return !this.#withheldTemplates.some(matches) || this.#approvedTemplates.some(matches);
  }

  /**
   * The whole decision about a target of this server: the grants', and that its definition is approved.
   * @param applicable grants whose subject matches the principal
   */
  decide(applicable: readonly CompiledGrant[], target: AccessTarget, request: AccessRequest): Decision {
    const decision = decide(applicable, this.labelled(target), request);
    const opens = decision.effect !== 'deny' || (decision.shadow !== null && decision.shadow.effect !== 'deny');
    if (!opens || this.isApproved(target)) return decision;
    const shadow = decision.shadow === null ? null : { ...decision.shadow, effect: 'deny' as const };
    if (decision.effect === 'deny') return { ...decision, shadow };
    return { effect: 'deny', reason: 'DEFINITION_NOT_APPROVED', grantIds: decision.grantIds, shadow };
  }
}

function keyOf(kind: DefinitionKind, name: string): string {
  return `${kind}\n${name}`;
}

/**
 * Whether a URI may come from a URI template (RFC 6570): each expression matches any text, which is wider than the
 * standard and so errs towards treating a URI as the template's.
 */
function templateMatcher(template: string): Matcher {
  return compileGlob(template.replace(/\{[^{}]*\}/g, '*'));
}
