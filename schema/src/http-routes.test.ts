import { expect, test } from 'vitest';
import { apiRoutes, nodeRoutes, operationsRoutes, peerRoutes, routeMatcher } from './http-routes.ts';

test('a path is matched as a whole, and what is no route is none', () => {
  const match = routeMatcher(apiRoutes);
  expect(match('/graphql')?.name).toBe('graphql');
  for (const path of ['/graphql/', '/graphqlx', '/GraphQL', '/', '', '/audit', '/audit/export/x', '//graphql']) {
    expect(match(path)).toBeUndefined();
  }
});

test('a parameter is one segment of its form', () => {
  const match = routeMatcher(nodeRoutes);
  expect(match('/mcp/jira-2')?.parameters).toEqual({ slug: 'jira-2' });
  for (const path of ['/mcp/', '/mcp/Jira', '/mcp/a/b', '/mcp/a%2fb', `/mcp/${'a'.repeat(65)}`]) {
    expect(match(path)).toBeUndefined();
  }
});

test('an unknown parameter is refused when the table is read', () => {
  expect(() => routeMatcher({ broken: { path: '/x/{thing}', methods: ['GET'], access: 'public' } })).toThrow('thing');
});

test('no path of a port stands in two rows', () => {
  for (const routes of [apiRoutes, nodeRoutes, peerRoutes, operationsRoutes]) {
    const paths = Object.values(routes).map(({ path }) => path);
    expect(new Set(paths).size).toBe(paths.length);
  }
});
