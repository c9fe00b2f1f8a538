import type { DefinitionKind, GrantSubject } from '@sallyport/schema';
import type { Reader } from '../database/client.ts';
import { servedServers, type ServerSet, type UsableTarget, usableOn } from './effective-access.service.ts';
import { readPolicy, readPrincipalRecords } from './policy-view.ts';

/** Servers looked at for one dry run; a grant on labels may concern more. */
export const serversComparedMax = 200;

/** Whose access a change may touch, on which servers. */
export interface Concern {
  readonly subject: GrantSubject;
  readonly servers: ServerSet;
}

export interface AccessItem {
  readonly kind: DefinitionKind;
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

/** What subjects may use, by subject and server. */
export type AccessPicture = ReadonlyMap<string, SubjectAccess>;

interface SubjectAccess {
  readonly subject: GrantSubject;
  readonly subjectName: string;
  readonly serverId: string;
  readonly slug: string;
  readonly items: ReadonlyMap<string, AccessItem>;
}

/**
 * What the subjects may use on the servers, as `tx` sees the configuration. A group stands for somebody who is in no
 * other, everyone for somebody who is in none.
 */
export async function pictureAccess(tx: Reader, concerns: readonly Concern[], nowMs: number): Promise<AccessPicture> {
  const picture = new Map<string, SubjectAccess>();
  for (const { subject, servers } of concerns) {
    const ids = await servedServers(tx, servers, serversComparedMax);
    const { servers: views, groupNames } = await readPolicy(tx, ids);
    const { principal, subjectName } = await stand(tx, subject, groupNames);
    for (const [serverId, view] of views) {
      const { slug } = view.document;
      const usable = principal === undefined ? [] : usableOn(view, serverId, slug, principal, nowMs);
      const items = usable.map(({ kind, name, effect, isConditional }) => ({ kind, name, effect, isConditional }));
      picture.set(`${JSON.stringify(subject)} ${serverId}`, {
        subject,
        subjectName,
        serverId,
        slug,
        items: new Map(items.map((item) => [`${item.kind}\n${item.name}`, item])),
      });
    }
  }
  return picture;
}

/** The difference of two pictures of the same concerns; without subjects and servers where there is none. */
export function compareAccess(before: AccessPicture, after: AccessPicture): AccessDifference[] {
  return [...new Set([...before.keys(), ...after.keys()])].flatMap((key) => {
    const [was, is] = [before.get(key), after.get(key)];
    const of = is ?? was;
    if (of === undefined) return [];
    const [wasItems, isItems] = [
      was?.items ?? new Map<string, AccessItem>(),
      is?.items ?? new Map<string, AccessItem>(),
    ];
    const gained = [...isItems].filter(([name]) => !wasItems.has(name)).map(([, item]) => item);
    const lost = [...wasItems].filter(([name]) => !isItems.has(name)).map(([, item]) => item);
    const changed = [...isItems].filter(([name, item]) => differs(wasItems.get(name), item)).map(([, item]) => item);
    if (gained.length + lost.length + changed.length === 0) return [];
    const { subject, subjectName, serverId, slug } = of;
    return [{ subject, subjectName, serverId, slug, gained, lost, changed }];
  });
}

function differs(was: AccessItem | undefined, is: AccessItem): boolean {
  return was !== undefined && (was.effect !== is.effect || was.isConditional !== is.isConditional);
}

const words: Readonly<Record<DefinitionKind, string>> = {
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

type Standing = Parameters<typeof usableOn>[3];

/** The principal whose access shows what a subject has; undefined where it may use nothing at all. */
async function stand(
  tx: Reader,
  subject: GrantSubject,
  groupNames: ReadonlyMap<string, string>,
): Promise<{ readonly principal: Standing | undefined; readonly subjectName: string }> {
  if (subject.kind === 'everyone') return { principal: { id: '', kind: 'user', groups: [] }, subjectName: 'everyone' };
  if (subject.kind === 'group') {
    const subjectName = `group ${groupNames.get(subject.id) ?? subject.id}`;
    return { principal: { id: '', kind: 'user', groups: [subject.id] }, subjectName };
  }
  const record = (await readPrincipalRecords(tx, [subject.id])).get(subject.id);
  const word = subject.kind === 'user' ? 'user' : 'service account';
  const principal = record?.status === 'active' ? record : undefined;
  return { principal, subjectName: `${word} ${record?.name ?? subject.id}` };
}
