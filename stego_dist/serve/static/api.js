// Questions to the server. What it refuses becomes an Error whose message is its sentence.

export async function ask(path, options = {}) {
  const headers = { "X-Requested-With": "stego-dist", ...options.headers };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server gave no answer. Is it still running?");
  }
  if (answer.ok) return answer;
  let said = {};
  try { said = await answer.json(); } catch { /* no sentence came along */ }
  throw Object.assign(new Error(said.error || `The server answered with status ${answer.status}.`), { said });
}

export const askJson = async (path, options) => (await ask(path, options)).json();

export const imageUrl = (id, part = "") => `/api/images/${encodeURIComponent(id)}${part}`;
