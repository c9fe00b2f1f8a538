import { z } from 'zod';
import type { GraphqlClient } from './graphql-client.ts';

const userName = 'Example user';
/** A day, the longest there is: whoever starts may try it tomorrow. */
const lifetimeSeconds = 86_400;

/** A code with which somebody logs in by OAuth, once, as a user who is granted what the example client is. */
export interface ReportedLogin {
  readonly userName: string;
  readonly code: string;
}

/** Makes the user where there is none, and a code for this start. */
export async function issueLoginCode(client: GraphqlClient, groupId: string): Promise<ReportedLogin> {
  const userId = (await findUser(client)) ?? (await makeUser(client));
  await client.ask(
    'mutation ($input: GroupMembersInput!) { addGroupMembers(input: $input) { id } }',
    { input: { id: groupId, principalIds: [userId] } },
    z.object({ addGroupMembers: z.object({ id: z.string() }) }),
  );
  const { createLoginCode } = await client.ask(
    'mutation ($input: CreateLoginCodeInput!) { createLoginCode(input: $input) { code } }',
    { input: { userId, lifetimeSeconds } },
    z.object({ createLoginCode: z.object({ code: z.string() }) }),
  );
  return { userName, code: createLoginCode.code };
}

async function findUser(client: GraphqlClient): Promise<string | undefined> {
  const User = z.object({ node: z.object({ id: z.string(), name: z.string(), status: z.string() }) });
  const { users } = await client.ask(
    'query ($search: String) { users(first: 100, search: $search) { edges { node { id name status } } } }',
    { search: userName },
    z.object({ users: z.object({ edges: z.array(User) }) }),
  );
  return users.edges.find(({ node }) => node.name === userName && node.status === 'ACTIVE')?.node.id;
}

async function makeUser(client: GraphqlClient): Promise<string> {
  const { createUser } = await client.ask(
    'mutation ($input: CreateUserInput!) { createUser(input: $input) { id } }',
    { input: { name: userName } },
    z.object({ createUser: z.object({ id: z.string() }) }),
  );
  return createUser.id;
}
