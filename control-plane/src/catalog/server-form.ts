import { defaultExtensions, extensionProblem, extensionsMax } from '@sallyport/schema';
import type { Egress } from '@sallyport/schema/platform';
import { descriptionLengthMax, nameLengthMax, type Violations } from '../database/violations.ts';
import type { AuditMode, AutoApproval, Discoverer, ServerRow } from './catalog.tables.ts';

/** Most labels of one server. */
const labelsMax = 64;
const labelLengthMax = 128;
const labelKeyPattern = /^[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?$/;
/** What GraphQL's Int can say; nearly 25 days. */
const configStalenessMsMax = 2_147_483_647;

export interface Label {
  readonly key: string;
  readonly value: string;
}

/** What an administrator says of a server. Absent: the default, or as it was. */
export interface ServerFieldsInput {
  readonly title?: string | null | undefined;
  readonly description?: string | null | undefined;
  readonly url?: string | null | undefined;
  readonly labels?: readonly Label[] | null | undefined;
  readonly ownerGroupId?: string | null | undefined;
  readonly auditMode?: AuditMode | null | undefined;
  readonly autoApproval?: AutoApproval | null | undefined;
  readonly configStalenessMaxMs?: number | null | undefined;
  readonly discoveredBy?: Discoverer | null | undefined;
  readonly extensions?: readonly string[] | null | undefined;
}

export type ServerFields = Pick<
  ServerRow,
  | 'title'
  | 'description'
  | 'url'
  | 'labels'
  | 'ownerGroupId'
  | 'auditMode'
  | 'autoApproval'
  | 'configStalenessMaxMs'
  | 'discoveredBy'
  | 'extensions'
>;

/**
 * The fields after `input` was said over `before`; a null `configStalenessMaxMs` goes back to the fleet's default, a null
 * `ownerGroupId` is no group.
 */
export function fieldsOf(input: ServerFieldsInput, before: ServerFields): ServerFields {
  return {
    title: input.title ?? before.title,
    description: input.description ?? before.description,
    url: input.url ?? before.url,
    labels: input.labels === undefined || input.labels === null ? before.labels : labelsOf(input.labels),
    ownerGroupId: input.ownerGroupId === undefined ? before.ownerGroupId : (input.ownerGroupId?.toLowerCase() ?? null),
    auditMode: input.auditMode ?? before.auditMode,
    autoApproval: input.autoApproval ?? before.autoApproval,
    configStalenessMaxMs:
      input.configStalenessMaxMs === undefined ? before.configStalenessMaxMs : input.configStalenessMaxMs,
    discoveredBy: input.discoveredBy ?? before.discoveredBy,
    extensions: (input.extensions ?? before.extensions).toSorted(),
  };
}

/** The fields of a server that is made. */
export function newFieldsOf(input: ServerFieldsInput & { readonly slug: string; readonly url: string }): ServerFields {
  return fieldsOf(input, {
    title: input.slug,
    description: '',
    url: input.url,
    labels: {},
    ownerGroupId: null,
    auditMode: 'buffered',
    autoApproval: 'none',
    configStalenessMaxMs: null,
    discoveredBy: 'controlPlane',
    extensions: [...defaultExtensions],
  });
}

/**
 * All but the URL, which `UrlChecks` looks at.
 * @param path of the input they came in, such as `input` or `input.items[3]`
 */
export function checkFields(found: Violations, path: string, input: ServerFieldsInput, fields: ServerFields): void {
  checkLabels(found, `${path}.labels`, input.labels ?? []);
  checkExtensions(found, `${path}.extensions`, input.extensions ?? []);
  found.text(`${path}.title`, fields.title, 1, nameLengthMax);
  found.text(`${path}.description`, fields.description, 0, descriptionLengthMax);
  const staleness = fields.configStalenessMaxMs;
  if (staleness !== null && (staleness < 1 || staleness > configStalenessMsMax)) {
    found.add(`${path}.configStalenessMaxMs`, `must be 1 to ${configStalenessMsMax} milliseconds, or null`);
  }
}

/** @param path of the list itself */
export function checkLabels(found: Violations, path: string, labels: readonly Label[]): void {
  if (labels.length > labelsMax) found.add(path, `must have at most ${labelsMax} labels`);
  const keys = new Set<string>();
  for (const [index, { key, value }] of labels.slice(0, labelsMax).entries()) {
    const at = `${path}[${index}]`;
    if (!labelKeyPattern.test(key)) {
      found.add(
        `${at}.key`,
        'must be 1 to 128 letters, digits and inner . _ / -, for example team or example.com/tier',
      );
    }
    if (keys.has(key)) found.add(`${at}.key`, 'is given twice');
    keys.add(key);
    found.text(`${at}.value`, value, 0, labelLengthMax);
  }
}

function checkExtensions(found: Violations, path: string, extensions: readonly string[]): void {
  if (extensions.length > extensionsMax) found.add(path, `must have at most ${extensionsMax} extensions`);
  for (const [index, identifier] of extensions.slice(0, extensionsMax).entries()) {
    const problem = extensionProblem(identifier);
    if (problem !== undefined) found.add(`${path}[${index}]`, problem);
    if (extensions.indexOf(identifier) < index) found.add(`${path}[${index}]`, 'is given twice');
  }
}

export function labelsOf(labels: readonly Label[]): Record<string, string> {
  return Object.fromEntries(labels.map(({ key, value }) => [key, value]));
}

type Endpoint = Pick<ServerFields, 'url' | 'discoveredBy'>;
/** Names are looked up for that many URLs at once. */
const lookupsAtOnce = 16;

/** Whether URLs may be registered. Looks up names, so it is told of what it can before a transaction begins. */
export class UrlChecks {
  private readonly egress: Pick<Egress, 'check'>;
  private readonly problems = new Map<string, Promise<string | undefined>>();

  constructor(egress: Pick<Egress, 'check'>) {
    this.egress = egress;
  }

  async prepare(endpoints: readonly Endpoint[]): Promise<void> {
    for (let from = 0; from < endpoints.length; from += lookupsAtOnce) {
      await Promise.all(endpoints.slice(from, from + lookupsAtOnce).map((endpoint) => this.problemOf(endpoint)));
    }
  }

  problemOf({ url, discoveredBy }: Endpoint): Promise<string | undefined> {
    const key = `${discoveredBy} ${url}`;
    const known = this.problems.get(key) ?? this.egress.check(url, discoveredBy === 'node' ? 'others' : 'here');
    this.problems.set(key, known);
    return known;
  }
}
