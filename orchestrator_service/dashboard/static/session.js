// Who looks at this page, and what they may do.

const ORDER = ["read", "submit", "approve", "admin"];

export const session = { name: null, role: "read", login: false };

export const may = (role) => ORDER.indexOf(session.role) >= ORDER.indexOf(role);
