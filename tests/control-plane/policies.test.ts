import postgres from 'postgres';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startTestControlPlane, type TestControlPlane } from '../kit/control-plane.ts';
import { waitFor } from '../kit/condition.ts';

let plane: TestControlPlane;
let sql: postgres.Sql;

const fields = `id name description position mode revision inspectedLengthMax onTooLarge
  match { serverIds serverLabels { key value } tools prompts resources directions principalIds groupIds riskMin }
  rules { detector action severityMin categories }`;
const blockSecrets = { detector: 'SECRET', action: 'BLOCK' };
// Composed here, so that no scanner takes this file for a leak.
const token = ['ghp', 'q7Rk2mVx9Tz4Lp8Wc3Yh6Nb1Jd5Gf0Sa2E4u'].join('_');

beforeAll(async () => {
  plane = await startTestControlPlane();
  sql = postgres(plane.databaseUrl, { max: 1, onnotice: () => undefined });
});
afterAll(async () => {
  await sql.end();
  await plane.stop();
});

function run(name: string, type: string, input: Record<string, unknown>, key?: string) {
  return plane.ask(`mutation ($input: ${type}!) { result: ${name}(input: $input) { ${fields} } }`, { input }, key);
}
const create = (input: Record<string, unknown>, key?: string) => run('createPolicy', 'CreatePolicyInput', input, key);

async function made(input: Record<string, unknown> = {}) {
  const { data, errors } = await create({ name: 'p', rules: [blockSecrets], ...input });
  expect(errors).toEqual([]);
  return data.result as { id: string; revision: number } & Record<string, unknown>;
}

async function violations(answer: ReturnType<typeof create>): Promise<string[]> {
  const { errors } = await answer;
  expect(errors[0]?.extensions.code).toBe('INVALID_INPUT');
  return (errors[0]?.extensions.violations ?? []).map(({ path, message }) => `${path}: ${message}`);
}

interface Listed {
  readonly edges: readonly { readonly node: { readonly id: string } }[];
  readonly pageInfo: { readonly endCursor: string | null; readonly hasNextPage: boolean };
}

describe('a policy', () => {
  test('is made with sane defaults: in shadow, about everything, closed for what is too large', async () => {
    expect(await made({ name: 'no secrets' })).toMatchObject({
      name: 'no secrets',
      mode: 'SHADOW',
      position: 1000,
      inspectedLengthMax: 1_048_576,
      onTooLarge: 'BLOCK',
      match: { serverIds: [], tools: [], directions: [], riskMin: null },
      rules: [{ detector: 'SECRET', action: 'BLOCK', severityMin: null, categories: [] }],
    });
  });

  test('is changed and deleted under its revision, each with an audit event', async () => {
    const policy = await made();
    const update = (input: Record<string, unknown>) =>
      run('updatePolicy', 'UpdatePolicyInput', { id: policy.id, ...input });
    const { data } = await update({
      expectedRevision: 1,
      mode: 'ENFORCE',
      match: { tools: ['delete_*'], directions: ['REQUEST'] },
    });
    expect(data.result).toMatchObject({
      mode: 'ENFORCE',
      revision: 2,
      match: { tools: ['delete_*'], directions: ['REQUEST'] },
    });
    expect((await update({ expectedRevision: 1, mode: 'OFF' })).errors[0]?.extensions.code).toBe('CONFLICT');
    const removed = await run('deletePolicy', 'DeletePolicyInput', { id: policy.id, expectedRevision: 2 });
    expect(removed.errors).toEqual([]);
    expect(
      (await plane.ask(`query ($id: ID!) { policy(id: $id) { id } }`, { id: policy.id })).errors[0]?.extensions.code,
    ).toBe('NOT_FOUND');
    const events = await sql`select action from audit_events where object_id = ${policy.id} order by time, id`;
    expect(events.map(({ action }) => action)).toEqual(['policy.create', 'policy.update', 'policy.delete']);
  });

  test('leaves nothing behind by a dry run, and is made once for one idempotency key', async () => {
    const before = await sql`select count(*)::int as count from policies`;
    const tried = await create({ name: 'tried', rules: [blockSecrets], dryRun: true });
    expect(tried.data.result.name).toBe('tried');
    expect(await sql`select count(*)::int as count from policies`).toEqual(before);
    const [first, second] = [await made({ idempotencyKey: 'once' }), await made({ idempotencyKey: 'once' })];
    expect(second.id).toBe(first.id);
  });

  test('is refused with everything that is wrong with it at once', async () => {
    const found = await violations(
      create({
        name: ' ',
        position: -1,
        inspectedLengthMax: 1,
        match: {
          tools: ['', 'a*b*c*d*e*f*g*h*i*j*'],
          serverIds: ['nobody'],
          groupIds: ['00000000-0000-0000-0000-000000000000'],
          serverLabels: [
            { key: 'a', value: '1' },
            { key: 'a', value: '2' },
          ],
        },
        rules: [
          blockSecrets,
          { ...blockSecrets, action: 'REDACT' },
          { detector: 'LINK', action: 'LABEL', categories: ['nothing'] },
        ],
      }),
    );
    expect(found.map((one) => one.split(':')[0])).toEqual([
      'input.name',
      'input.position',
      'input.inspectedLengthMax',
      'input.match.serverLabels[1].key',
      'input.rules[2].categories[0]',
      'input.match.tools[0]',
      'input.match.tools[1]',
      'input.rules[1]',
      'input.match.serverIds[0]',
      'input.match.groupIds[0]',
    ]);
    expect(await violations(create({ name: 'p', rules: [] }))).toEqual([
      expect.stringContaining('input.rules: must say'),
    ]);
    expect(
      await violations(create({ name: 'p', rules: [{ detector: 'SECRET', action: 'REQUIRE_APPROVAL' }] })),
    ).toEqual([expect.stringContaining('input.rules[0].action: approvals cannot be asked for yet')]);
  });

  test('needs policy:write to be made, and policy:read to be seen', async () => {
    const answer = await create({ name: 'p', rules: [blockSecrets] }, '');
    expect(answer.errors[0]?.extensions.code).toMatch(/UNAUTHENTICATED|FORBIDDEN/);
  });

  test('is listed in the order in which policies decide, page by page', async () => {
    const [late, early] = [
      await made({ name: 'order late', position: 9 }),
      await made({ name: 'order early', position: 3 }),
    ];
    const query = `query ($after: String) { policies(first: 1, after: $after, search: "order") {
      edges { node { id } } pageInfo { endCursor hasNextPage } } }`;
    const seen: string[] = [];
    let [after, more]: [string | null, boolean] = [null, true];
    while (more) {
      const { policies } = (await plane.ask(query, { after })).data as { policies: Listed };
      seen.push(...policies.edges.map(({ node }) => node.id));
      ({ endCursor: after, hasNextPage: more } = policies.pageInfo);
    }
    expect(seen).toEqual([early.id, late.id]);
  });
});

test('a stored policy that cannot be published lets nothing through of what it is about, and is named', async () => {
  const policy = await made({ name: 'broken later', mode: 'ENFORCE' });
  await sql`update policies set rules = '[{"detector":"unknown"}]' where id = ${policy.id}`;
  await made({ name: 'wakes the publisher' });
  const problem = await waitFor('the problem of the policy', async () => {
    const [row] =
      await sql`select path, message from config_problems where object_kind = 'policy' and object_id = ${policy.id}`;
    return row;
  });
  expect(problem.path).toContain('rules.0');
  await sql`update policies set deleted_at = now() where id = ${policy.id}`;
});

describe('testPolicy', () => {
  const query = `query ($input: TestPolicyInput!) { testPolicy(input: $input) {
    isBlocked message text labels verdicts { policyId detector decision reason count places { path start end } } } }`;
  const trial = async (input: Record<string, unknown>) => await plane.ask(query, { input });

  test('says what a draft would do to messages and texts, and what would be left of them', async () => {
    const message = {
      jsonrpc: '2.0',
      id: 1,
      result: { content: [{ type: 'text', text: `mail a@b.example, ${token}` }] },
    };
    const { data, errors } = await trial({
      rules: [
        { detector: 'PERSONAL_DATA', action: 'LABEL' },
        { detector: 'SECRET', action: 'REDACT' },
      ],
      samples: [
        { direction: 'RESPONSE', message },
        { direction: 'REQUEST', text: `my ${token}` },
        { direction: 'REQUEST', text: 'hello' },
      ],
    });
    expect(errors).toEqual([]);
    const [first, second, third] = data.testPolicy;
    expect(first).toMatchObject({ isBlocked: false, labels: ['personalData'], text: null });
    expect(first.message.result.content[0].text).toBe('mail a@b.example, [redacted githubToken]');
    expect(
      first.verdicts.map(({ decision, reason }: Record<string, string>) => `${decision} ${reason}`).sort(),
    ).toEqual(['LABEL email', 'REDACT githubToken']);
    expect(second).toMatchObject({ text: 'my [redacted githubToken]', message: null });
    expect(third).toMatchObject({ isBlocked: false, text: 'hello', verdicts: [] });
  });

  test('takes a policy that exists as if it were in force', async () => {
    const policy = await made({ name: 'tried', mode: 'SHADOW' });
    const { data } = await trial({ policyId: policy.id, samples: [{ direction: 'REQUEST', text: token }] });
    expect(data.testPolicy[0]).toMatchObject({
      isBlocked: true,
      text: null,
      verdicts: [{ policyId: policy.id, decision: 'BLOCK' }],
    });
  });

  test('is asked for once in a query, so that no alias multiplies what may be given', async () => {
    const twice = `query ($input: TestPolicyInput!) { testPolicy(input: $input) { isBlocked } ...More }
      fragment More on Query { again: testPolicy(input: $input) { isBlocked } }`;
    const input = {
      rules: [{ detector: 'SECRET', action: 'BLOCK' }],
      samples: [{ direction: 'REQUEST', text: 'hello' }],
    };
    const { errors } = await plane.ask(twice, { input });
    expect(errors[0]?.extensions.code).toBe('QUERY_TOO_COMPLEX');
    expect(errors[0]?.extensions.violations?.[0]?.message).toContain('testPolicy more than once');
  });

  test('refuses what is no sample and what is too much, all at once', async () => {
    const { errors } = await trial({
      samples: [{ direction: 'REQUEST' }, { direction: 'REQUEST', text: 'x'.repeat(140_000) }],
    });
    expect(errors[0]?.extensions.violations?.map(({ path }) => path)).toEqual([
      'input.rules',
      'input.samples[0]',
      'input.samples',
    ]);
  });
});

test('what a server may ask of clients is nothing, until somebody who may approve it says otherwise', async () => {
  const asks =
    'id revision asks { sampling roots elicitation perExchangeMax samplingTokensMax bytesMax elicitationHosts }';
  const created = await plane.ask(`mutation ($input: CreateServerInput!) { createServer(input: $input) { ${asks} } }`, {
    input: { slug: 'asking', url: 'https://mcp.example.com/mcp' },
  });
  const server = created.data?.createServer ?? { id: '' };
  expect(created.errors).toEqual([]);
  expect(server.asks).toMatchObject({ sampling: false, roots: false, elicitation: false, perExchangeMax: 8 });
  const update = (input: Record<string, unknown>) =>
    plane.ask(`mutation ($input: UpdateServerAsksInput!) { updateServerAsks(input: $input) { ${asks} } }`, {
      input: { id: server.id, ...input },
    });
  const { data } = await update({ elicitation: true, elicitationHosts: ['Login.Example.com', 'login.example.com'] });
  expect(data.updateServerAsks.asks).toMatchObject({
    elicitation: true,
    sampling: false,
    elicitationHosts: ['login.example.com'],
  });
  expect((await update({ expectedRevision: server.revision, roots: true })).errors[0]?.extensions.code).toBe(
    'CONFLICT',
  );
  const wrong = await update({ perExchangeMax: 0, bytesMax: 0, elicitationHosts: ['https://x'] });
  expect(wrong.errors[0]?.extensions.violations?.map(({ path }) => path)).toEqual([
    'input.perExchangeMax',
    'input.bytesMax',
    'input.elicitationHosts[0]',
  ]);
  const events = await sql`select action from audit_events where object_id = ${server.id} order by time, id`;
  expect(events.map(({ action }) => action)).toEqual(['server.create', 'server.updateAsks']);
});
