import type { CompiledGrant, ListedKind, GrantSubject, PrincipalRecord } from '@sallyport/schema';
import type { Reader } from '../database/client.ts';
import { servedServers, type ServerSet, type UsableTarget, usableOn } from './effective-access.service.ts';
import { readPolicy, readPrincipalRecords, type ServerView } from './policy-view.ts';

/** Servers looked at for one concern of a dry run; a grant on labels may concern more. */
export const serversComparedMax = 200;

/** Whose access a change may touch, on which servers. */
export interface Concern {
  readonly subject: GrantSubject;
  readonly servers: ServerSet;
}

export interface AccessItem {
  readonly kind: ListedKind;
  readonly name: string;
  readonly effect: UsableTarget['effect'];
  readonly isConditional: boolean;
}

/** What a subject gains and loses on one server. */
export interface AccessDifference {
  readonly subject: GrantSubject;
  /** What people call the subject. */
  readonly subjectName: string;
  readonly serverId: string;
  readonly slug: string;
  readonly gained: readonly AccessItem[];
  readonly lost: readonly AccessItem[];
  /** Kept, but by another effect or condition; as it will be. */
  readonly changed: readonly AccessItem[];
}

type Items = ReadonlyMap<string, AccessItem>;
type Standing = Parameters<typeof usableOn>[3];

/** What a subject may use on a server, worked out when somebody asks. */
class SubjectAccess {
  readonly subject: GrantSubject;
  readonly subjectName: string;
  readonly serverId: string;
  readonly view: ServerView;
  readonly #principal: Standing | undefined;
  readonly #nowMs: number;
  #items: Items | undefined;

  constructor(
    subject: GrantSubject,
    { principal, subjectName }: Standee,
    serverId: string,
    view: ServerView,
    nowMs: number,
  ) {
    this.subject = subject;
    this.subjectName = subjectName;
    this.serverId = serverId;
    this.view = view;
    this.#principal = principal;
    this.#nowMs = nowMs;
  }

  get slug(): string {
    return this.view.document.slug;
  }

  get items(): Items {
    this.#items ??= this.itemsWith(this.view.grants);
    return this.#items;
  }

  /** As if these were the grants on the server. */
  itemsWith(grants: readonly CompiledGrant[]): Items {
    const { view, serverId, slug } = this;
    const usable =
      this.#principal === undefined ? [] : usableOn({ ...view, grants }, serverId, slug, this.#principal, this.#nowMs);
    return new Map(
      usable.map(({ kind, name, effect, isConditional }) => [
        `${kind}\n${name}`,
        { kind, name, effect, isConditional },
      ]),
    );
  }
}

/** What subjects may use, by subject and server. */
export type AccessPicture = ReadonlyMap<string, SubjectAccess>;

/**
 * What the subjects may use on the servers, as `tx` sees the configuration. A group stands for somebody who is in no
 * other, everyone for somebody who is in none.
 */
export async function pictureAccess(tx: Reader, concerns: readonly Concern[], nowMs: number): Promise<AccessPicture> {
  const subjectsByServer = await subjectsOnServers(tx, concerns);
  const people = concerns.flatMap(({ subject: { kind, ...subject } }) =>
    (kind === 'user' || kind === 'serviceAccount') && 'id' in subject ? [subject.id] : [],
  );
  const records = people.length === 0 ? new Map() : await readPrincipalRecords(tx, [...new Set(people)]);
  const picture = new Map<string, SubjectAccess>();
  const ids = [...subjectsByServer.keys()];
  for (let from = 0; from < ids.length; from += serversComparedMax) {
    const { servers: views, groupNames } = await readPolicy(tx, ids.slice(from, from + serversComparedMax));
    for (const [serverId, view] of views) {
      for (const [key, subject] of subjectsByServer.get(serverId) ?? []) {
        const standee = stand(subject, groupNames, records);
        picture.set(`${key} ${serverId}`, new SubjectAccess(subject, standee, serverId, view, nowMs));
      }
    }
  }
  return picture;
}

type Subjects = Map<string, GrantSubject>;

/** Whom to look at on which served server; subjects by what they say. */
async function subjectsOnServers(tx: Reader, concerns: readonly Concern[]): Promise<ReadonlyMap<string, Subjects>> {
  const known = new Map<string, readonly string[]>();
  const found = new Map<string, Subjects>();
  for (const { subject, servers } of concerns) {
    const key = JSON.stringify(servers);
    const ids = known.get(key) ?? (await servedServers(tx, servers, serversComparedMax));
    known.set(key, ids);
    for (const id of ids) {
      const subjects: Subjects = found.get(id) ?? new Map();
      found.set(id, subjects.set(JSON.stringify(subject), subject));
    }
  }
  return found;
}

/** Two pictures of the same concerns: what is, and what a change would leave. */
export class AccessComparison {
  readonly #before: AccessPicture;
  readonly #after: AccessPicture;

  constructor(before: AccessPicture, after: AccessPicture) {
    this.#before = before;
    this.#after = after;
  }

  /** All differences; without subjects and servers where there is none. */
  all(): AccessDifference[] {
    return this.#keys().flatMap((key) => {
      const [was, is] = [this.#before.get(key), this.#after.get(key)];
      return difference(was, is, was?.items ?? nothing, is?.items ?? nothing);
    });
  }

  /** What one of the grants that were changed together would change by itself, for its own subject. */
  ofGrant(id: string, subject: GrantSubject): AccessDifference[] {
    const wanted = JSON.stringify(subject);
    const [others, own] = [
      (grant: CompiledGrant): boolean => grant.entry.id !== id,
      (grant: CompiledGrant): boolean => grant.entry.id === id,
    ];
    return this.#keys().flatMap((key) => {
      const [was, is] = [this.#before.get(key), this.#after.get(key)];
      // Of many grants for many subjects, each pair would otherwise be worked out to be thrown away.
      if (was === undefined || is === undefined || JSON.stringify(is.subject) !== wanted) return [];
      const grants = [...was.view.grants.filter(others), ...is.view.grants.filter(own)];
      return difference(was, is, was.items, is.itemsWith(grants));
    });
  }

  #keys(): readonly string[] {
    return [...new Set([...this.#before.keys(), ...this.#after.keys()])];
  }
}

const nothing: Items = new Map();

function difference(
  was: SubjectAccess | undefined,
  is: SubjectAccess | undefined,
  wasItems: Items,
  isItems: Items,
): AccessDifference[] {
  // Who is deleted has a name before alone; who is new, after alone.
  const of = was ?? is;
  if (of === undefined) return [];
  const gained = [...isItems].filter(([name]) => !wasItems.has(name)).map(([, item]) => item);
  const lost = [...wasItems].filter(([name]) => !isItems.has(name)).map(([, item]) => item);
  const changed = [...isItems].filter(([name, item]) => differs(wasItems.get(name), item)).map(([, item]) => item);
  if (gained.length + lost.length + changed.length === 0) return [];
  const { subject, subjectName, serverId, slug } = of;
  return [{ subject, subjectName, serverId, slug, gained, lost, changed }];
}

function differs(was: AccessItem | undefined, is: AccessItem): boolean {
  return was !== undefined && (was.effect !== is.effect || was.isConditional !== is.isConditional);
}

const words: Readonly<Record<ListedKind, string>> = {
  tool: 'tool',
  prompt: 'prompt',
  resource: 'resource',
  resourceTemplate: 'resource template',
};

function counted(items: readonly AccessItem[]): string {
  const byKind = Object.entries(words).flatMap(([kind, word]) => {
    const count = items.filter((item) => item.kind === kind).length;
    return count === 0 ? [] : [`${count} ${word}${count === 1 ? '' : 's'}`];
  });
  return byKind.join(' and ');
}

/** In one line: "group analysts gains 4 tools on jira, loses 1 tool". */
export function describeChange(change: AccessDifference): string {
  const parts = [
    change.gained.length === 0 ? '' : `gains ${counted(change.gained)}`,
    change.lost.length === 0 ? '' : `loses ${counted(change.lost)}`,
    change.changed.length === 0 ? '' : `keeps ${counted(change.changed)} on other terms`,
  ].filter((part) => part !== '');
  const [first = '', ...more] = parts;
  return [`${change.subjectName} ${first} on ${change.slug}`, ...more].join(', ');
}

interface Standee {
  /** The principal whose access shows what a subject has; undefined where it may use nothing at all. */
  readonly principal: Standing | undefined;
  readonly subjectName: string;
}

function stand(
  subject: GrantSubject,
  groupNames: ReadonlyMap<string, string>,
  records: ReadonlyMap<string, PrincipalRecord>,
): Standee {
  if (subject.kind === 'everyone') return { principal: { id: '', kind: 'user', groups: [] }, subjectName: 'everyone' };
  if (subject.kind === 'group') {
    const subjectName = `group ${groupNames.get(subject.id) ?? subject.id}`;
    return { principal: { id: '', kind: 'user', groups: [subject.id] }, subjectName };
  }
  const record = records.get(subject.id);
  const word = subject.kind === 'user' ? 'user' : 'service account';
  const principal = record?.status === 'active' ? record : undefined;
  return { principal, subjectName: `${word} ${record?.name ?? subject.id}` };
}
