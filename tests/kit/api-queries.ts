import type { GraphqlClient } from '@sallyport/cli';
import { z } from 'zod';

/** What lists are asked for: as a console does, whole pages with what it shows of each row. */
interface ApiQuery {
  readonly name: string;
  readonly query: string;
}

const server = 'id slug title lifecycle labels { key value } health { observer state } revision';
const grant = 'id name effect mode subject { kind id } serverId tools notAfter reason revision';
const user = 'id name email status roles revision';
const list = (name: string, args: string, fields: string): string =>
  `{ list: ${name}(${args}) { edges { node { ${fields} } } pageInfo { endCursor hasNextPage } } }`;

/** @param ids of one server and one group that grants name */
export function apiQueries(ids: { readonly serverId: string; readonly groupId: string }): readonly ApiQuery[] {
  const query = (name: string, text: string): ApiQuery => ({ name, query: text });
  return [
    query('servers, the first page', list('servers', 'first: 100', server)),
    query(
      'servers by label and state',
      list('servers', 'first: 100, lifecycle: APPROVED, labels: [{ key: "team", value: "team-7" }]', server),
    ),
    query('servers by words', list('servers', 'first: 100, search: "payments 17"', server)),
    query('servers by a word of none', list('servers', 'first: 100, search: "zeppelin"', server)),
    query('servers by one letter', list('servers', 'first: 100, search: "7"', server)),
    query('a server by its slug', list('servers', 'first: 1, slug: "server-1234"', server)),
    query('grants, the first page', list('grants', 'first: 100', grant)),
    query('grants of a server', list('grants', `first: 100, serverId: "${ids.serverId}"`, grant)),
    query('grants of a group', list('grants', `first: 100, groupId: "${ids.groupId}"`, grant)),
    query('grants that deny', list('grants', 'first: 100, effect: DENY', grant)),
    query('grants by words', list('grants', 'first: 100, search: "ticket ops-4321"', grant)),
    query('grants by a word of none', list('grants', 'first: 100, search: "zeppelin"', grant)),
    query(
      'grants in force by one letter',
      list('grants', 'first: 100, search: "9", validAt: "2030-01-01T00:00:00Z"', grant),
    ),
    query('users, the first page', list('users', 'first: 100', user)),
    query('users by words', list('users', 'first: 100, search: "person 4711"', user)),
    query('groups by words', list('groups', 'first: 100, search: "group 11"', 'id name revision')),
    query('changes in the audit trail', list('auditEvents', 'first: 100, kind: CONFIGURATION', 'id time action')),
    query(
      'refused calls in the audit trail',
      list('auditEvents', 'first: 100, outcomes: [REFUSED]', 'id time outcome'),
    ),
    query(
      'calls of what begins so',
      list('auditEvents', 'first: 100, targetPrefix: "tool_1"', 'id time target { name }'),
    ),
  ];
}

export interface QueryTimes {
  readonly name: string;
  /** In milliseconds, sorted. */
  readonly times: readonly number[];
}

const answer = z.object({ list: z.object({ edges: z.array(z.unknown()) }) });

/** Asks each query `rounds` times, interleaved, by `askers` at once. */
export async function timeQueries(
  api: GraphqlClient,
  queries: readonly ApiQuery[],
  { rounds, askers }: { readonly rounds: number; readonly askers: number },
): Promise<readonly QueryTimes[]> {
  const times = queries.map(({ name }) => ({ name, times: [] as number[] }));
  const work = Array.from({ length: rounds }, () => queries.map(({ query }, at) => ({ query, at }))).flat();
  const ask = async (): Promise<void> => {
    for (let next = work.pop(); next !== undefined; next = work.pop()) {
      const began = performance.now();
      await api.ask(next.query, {}, answer);
      times[next.at]?.times.push(performance.now() - began);
    }
  };
  await Promise.all(Array.from({ length: askers }, ask));
  return times.map((one) => ({ ...one, times: one.times.sort((left, right) => left - right) }));
}

/** @param share 0 to 1 @param sorted not empty */
export function percentile(sorted: readonly number[], share: number): number {
  return sorted[Math.min(sorted.length - 1, Math.ceil(sorted.length * share) - 1)] ?? Number.NaN;
}
